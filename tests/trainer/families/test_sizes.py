"""The sides of images that a family allows are those that its pipeline takes as they are."""

import sys
from typing import Any

import pytest

from dreambooth_trainer.models import Family
from dreambooth_trainer.models.generate import ImageRequest, generate_images
from tests.trainer.families.conftest import SUPPORTED, build, load

SIDES = range(64, 100, 4)


class BegunError(Exception):
    """The pipeline has begun to denoise."""


def takes(family: Family, side: int, warnings: list[str]) -> bool:
    """Whether the pipeline makes images of that width, without a word about it."""
    warnings.clear()
    try:
        generate_images(
            family,
            [ImageRequest("a mug", 0)],
            sampler=family.defaults.sampler,
            steps=2,
            guidance_scale=family.unguided_scale,
            size=(side, 64),
        )
    except BegunError:
        return not warnings
    except ValueError as error:
        if "divisible" not in str(error):
            raise
        return False
    raise AssertionError("the denoiser was not called")


@pytest.mark.parametrize("name", ["stable_diffusion", *SUPPORTED])
def test_the_pipeline_takes_the_sides_that_the_family_allows(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = load(build(name) if name in SUPPORTED else request.getfixturevalue("random_model"))
    warnings: list[str] = []
    pipelines = sys.modules[family.pipeline_class.__module__]
    monkeypatch.setattr(pipelines.logger, "warning", warnings.append)

    def begin(*_: Any, **__: Any) -> None:
        raise BegunError

    monkeypatch.setattr(family.denoiser, "forward", begin)
    taken = [side for side in SIDES if takes(family, side, warnings)]
    assert taken == [side for side in SIDES if side % family.side_multiple == 0]
