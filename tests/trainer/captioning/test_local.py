"""Answers of a model on this machine: always valid, and the same whatever else is asked."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import pytest
import torch
from PIL import Image
from pydantic import Field

from dreambooth_api.models.captioning import Captioning, CaptioningModel
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.captioning.answers import Answer, Caption, PhotoCheck, Prompts
from dreambooth_trainer.captioning.models import open as opening
from dreambooth_trainer.captioning.models.interface import Request, Sampling
from dreambooth_trainer.captioning.models.local import LocalModel
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.errors import BadModelError
from dreambooth_trainer.process.topology import Topology
from tests.corpus import vision_language


class Short(Answer):
    """As a caption, but short: a random model writes as much as it may."""

    example = '{"caption": "..."}'
    max_characters = 40

    caption: Annotated[str, Field(min_length=1, max_length=10)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vision_language.build(tmp_path_factory.mktemp("model"))


def open_model(folder: Path) -> LocalModel:
    return LocalModel(folder, "tiny", torch.device("cpu"))


def request(
    seed: int, color: str = "red", size: tuple[int, int] = (64, 48), temperature: float = 1
) -> Request:
    image = Image.new("RGB", size, color)
    return Request("0.png", "Describe.", "What is it?", Sampling(temperature), seed, image)


@pytest.mark.parametrize(
    "count", [20, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
@pytest.mark.parametrize("temperature", [0, 1, 2])
def test_every_answer_is_valid(folder: Path, count: int, temperature: float) -> None:
    model = open_model(folder)
    requests = [request(seed, temperature=temperature) for seed in range(count)]
    for text in model.answer(requests, Short):
        Short.model_validate_json(text)
    for text in model.answer(requests, PhotoCheck):
        PhotoCheck.model_validate_json(text)


@pytest.mark.parametrize("kind", [Caption, Prompts])
def test_an_answer_of_few_tokens_is_closed_in_time(folder: Path, kind: type[Answer]) -> None:
    # A random model writes as much as it may: each of these would be cut in the middle.
    requests = [replace(request(seed, temperature=2), max_tokens=40) for seed in range(6)]
    for text in open_model(folder).answer(requests, kind):
        kind.model_validate_json(text)
        assert len(text) > 20


def test_an_answer_depends_on_its_request_alone(folder: Path) -> None:
    model = open_model(folder)
    requests = [request(1), request(2, "blue", (30, 64)), request(3, "red", (64, 64))]
    together = model.answer(requests, Short)
    assert together == [model.answer([each], Short)[0] for each in reversed(requests)][::-1]
    assert len(set(model.answer([request(seed) for seed in range(8)], Short))) == 8


def test_the_image_is_seen(folder: Path) -> None:
    model = open_model(folder)
    red, blue = (model._inputs.encode(request(0, color), Short) for color in ("red", "blue"))
    with torch.no_grad():
        assert not torch.equal(model._model(**red).logits, model._model(**blue).logits)


def test_it_leaves_the_device_when_it_is_closed(folder: Path) -> None:
    settings = Captioning(model=CaptioningModel(source=str(folder)))
    arguments = settings, Storage(StorageSettings()), Ranks(Topology()), torch.device("cpu")
    with opening.open_model(*arguments) as model:
        assert isinstance(model, LocalModel)
        assert {each.device.type for each in model._model.parameters()} == {"cpu"}
    assert {each.device.type for each in model._model.parameters()} == {"meta"}


def test_without_a_chat_template_it_is_refused(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        if path.name != "chat_template.jinja":
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(BadModelError, match="tiny has no chat template"):
        open_model(tmp_path)


def test_a_model_that_reads_no_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(BadModelError, match=r"spec\.captioning\.model\.source: tiny is no vision-"):
        open_model(tmp_path)
