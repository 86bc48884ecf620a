"""Clip skip: what is trained and sampled is what plain diffusers makes with it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dreambooth_api.models.model import Model
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.export.model_card import model_card
from dreambooth_trainer.models.adapters.trainable import make_trainable
from dreambooth_trainer.models.clip import text_model
from dreambooth_trainer.models.load import load_family
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.topology import Topology
from tests.trainer.export.test_export import ABOUT
from tests.trainer.families.conftest import build, load_plain
from tests.trainer.resolved import resolve_training

PROMPT = "a photo of sks dog"
TINY_SD = Path(__file__).parents[3] / "examples" / "tiny-sd" / "model"


def loaded(folder: Path, clip_skip: int | None) -> Any:
    model = Model(source=str(folder), clip_skip=clip_skip)
    storage = Storage(StorageSettings())
    return load_family(model, storage, Ranks(Topology()), torch.device("cpu"))


@pytest.fixture(scope="module", params=["sd", "sdxl"])
def folder(request: pytest.FixtureRequest) -> Path:
    return build("sdxl") if request.param == "sdxl" else TINY_SD


def test_prompts_are_encoded_as_by_diffusers(folder: Path) -> None:
    family = loaded(folder, 2)
    pipeline = load_plain(folder).to(dtype=torch.float32)
    # Stable Diffusion's pipeline reads this level, which transformers from 5.6 on has no more.
    object.__setattr__(pipeline.text_encoder, "text_model", text_model(pipeline.text_encoder))
    plain, *_ = pipeline.encode_prompt(
        PROMPT, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False,
        clip_skip=1,
    )  # fmt: skip
    found = family.encode_prompts([PROMPT])
    torch.testing.assert_close(found["hidden_states"], plain)
    default = loaded(folder, None)
    assert not torch.allclose(default.encode_prompts([PROMPT])["hidden_states"], plain)
    assert default.model_hash != family.model_hash  # class images are shared by hash


def test_layers_that_are_not_read_are_not_trained(folder: Path) -> None:
    """They would have no gradient, which DDP waits for."""
    family = loaded(folder, 2)
    training = resolve_training({"textEncoder": {"method": "lora"}, "precision": "fp32"})
    trained = make_trainable(family, training)
    encoded = family.encode_tokens(family.tokenize([PROMPT]))
    sum(each.sum() for each in encoded.values()).backward()
    assert trained.text
    assert [name for name, each in trained.text.items() if each.grad is None] == []


def test_the_card_has_it(folder: Path) -> None:
    family = loaded(folder, 2)
    card = model_card(family, replace(ABOUT, clip_skip=2), lora=True)
    assert "    clip_skip=1," in card
    layer = -3 if "text_encoder_2" in family.parts else -2
    assert f"- Clip skip: 2, which is {layer} of ComfyUI's CLIP Set Last Layer" in card
    assert "Clip skip" not in model_card(family, ABOUT, lora=True)
