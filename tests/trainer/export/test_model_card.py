"""A model card: the license of the base model's weights, and the scores of the result."""

from dataclasses import replace
from typing import Any

import pytest
import yaml

from dreambooth_trainer.export.model_card import model_card
from dreambooth_trainer.export.provenance import Provenance
from dreambooth_trainer.models.families.stable_diffusion import StableDiffusion
from dreambooth_trainer.models.published import INHERITED, find_license
from dreambooth_trainer.models.registry import FAMILIES
from tests.crds.contract.example_scores import example_scores
from tests.trainer.export.test_export import ABOUT

PUBLISHED = [model for family in FAMILIES.values() for model in family.published]


def card(about: Provenance) -> tuple[dict[str, Any], str]:
    """Front matter and text of the card of a LoRA."""
    family: Any = StableDiffusion  # a card reads what is of the class
    _, front, text = model_card(family, about, lora=True).split("---\n", 2)
    return yaml.safe_load(front), text


@pytest.mark.parametrize(
    ("source", "front", "line"),
    [
        (
            "hf://Qwen/Qwen-Image",
            {"license": "apache-2.0"},
            "apache-2.0, https://www.apache.org/licenses/LICENSE-2.0",
        ),
        (
            "hf://black-forest-labs/FLUX.1-dev/flux1-dev.safetensors",
            {
                "license": "other",
                "license_name": "flux-1-dev-non-commercial-license",
                "license_link": "https://bfl.ai/legal/non-commercial-license-terms",
            },
            "flux-1-dev-non-commercial-license (no commercial use), "
            "https://bfl.ai/legal/non-commercial-license-terms",
        ),
        (
            "hf://someone/FLUX.1-dev",
            {"license": "other", "license_name": "same-as-base-model"},
            "not known; it applies to this model too",
        ),
        (
            "/models/mine",
            {"license": "other", "license_name": "same-as-base-model"},
            "not known; it applies to this model too",
        ),
    ],
)
def test_the_license_of_a_result(source: str, front: dict[str, str], line: str) -> None:
    about = replace(ABOUT, base_model=source, license=find_license(PUBLISHED, source))
    found, text = card(about)
    assert {name: value for name, value in found.items() if "license" in name} == front
    assert f"- License of the base model: {line}\n" in text
    assert about.metadata()["license"] == about.license.name


def test_a_name_that_only_begins_like_a_published_one_is_not_known() -> None:
    assert find_license(PUBLISHED, "hf://Qwen/Qwen-Image-mine") == INHERITED


def test_the_scores_of_a_result_have_their_intervals_and_its_step() -> None:
    scores = example_scores()
    _, text = card(replace(ABOUT, scores=scores.model_copy(update={"last_step": 800})))
    assert "This is the best checkpoint, of step 9; training ended with step 800." in text
    similarity = "0.500 (0.450 to 0.550) | 0.750 (0.700 to 0.800) | 0.875 (0.825 to 0.925)"
    assert f"| subject similarity (DINO) | higher | {similarity} |" in text
    assert "| prompt following (CLIP-T) | higher | 0.250" in text
    assert f"Encoders: DINO (sha256 `{'0' * 12}`) and CLIP" in text
    _, text = card(replace(ABOUT, scores=scores))
    assert "best checkpoint" not in text
    assert "Scores" not in card(ABOUT)[1]


@pytest.mark.parametrize("dora", [False, True])
def test_a_dora_is_not_for_a1111(dora: bool) -> None:
    family: Any = StableDiffusion
    text = model_card(family, ABOUT, lora=True, web_ui_file="kohya_lora.safetensors", dora=dora)
    assert ("of A1111, where" in text) is not dora
    assert ("of Forge, where" in text) is dora
    assert ("A1111 cannot use it" in text) is dora
