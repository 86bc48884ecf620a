"""Weights reach the device once, in the precision that they are trained in."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dreambooth_api.models.model import Model
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.export.pipeline import export_pipeline
from dreambooth_trainer.models import Family, load_family
from dreambooth_trainer.models.adapters.trainable import make_trainable
from dreambooth_trainer.models.generate import ImageRequest, generate_images
from dreambooth_trainer.models.load import reload_denoiser
from dreambooth_trainer.preflight.memory.meta_device import META, MemoryMeter
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.errors import BadModelError
from dreambooth_trainer.process.topology import Topology
from tests.trainer.export.test_export import ABOUT
from tests.trainer.resolved import resolve_training

CPU = torch.device("cpu")
STORAGE = Storage(StorageSettings())
SIDE = 64
HALF, FULL = {torch.bfloat16}, {torch.float32}


def load(folder: Path, device: torch.device = CPU, **training: Any) -> Family:
    model, ranks = Model(source=str(folder)), Ranks(Topology())
    return load_family(model, STORAGE, ranks, device, resolve_training(training))


def precisions(family: Family) -> dict[str, set[torch.dtype]]:
    return {
        part: {weight.dtype for weight in module.parameters()}
        for part, module in family.parts.items()
    }


@pytest.mark.parametrize(
    ("training", "denoiser", "text"),
    [
        ({"method": "lora", "precision": "bf16"}, HALF, HALF),
        ({"method": "lora", "precision": "fp32"}, FULL, FULL),
        ({"method": "lora", "precision": "bf16", "textEncoder": {"method": "lora"}}, HALF, FULL),
        ({"method": "full", "precision": "bf16"}, FULL, FULL),
    ],
    ids=["lora", "lora in fp32", "lora of text", "full"],
)
def test_frozen_weights_have_the_precision_of_the_forward_pass(
    folder: Path, training: dict[str, Any], denoiser: set[Any], text: set[Any]
) -> None:
    family = load(folder, **training)
    if not family.trains_text and training["precision"] == "bf16":  # language models
        text = HALF
    of_text = dict.fromkeys(family.text_parts(), text)
    if getattr(family.denoiser, "_keep_in_fp32_modules", None):  # norms, by the library
        denoiser = denoiser | FULL
    expected = {family.denoiser_part: denoiser, "vae": FULL, **of_text}
    assert precisions(family) == expected


def test_no_weight_is_on_the_device_twice_or_in_a_higher_precision(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Weights on the meta device have no values to check.
    monkeypatch.setattr("dreambooth_trainer.models.load.check_finite", lambda *_: None)
    with MemoryMeter() as meter:
        family = load(folder, META, method="lora", precision="bf16")
    weights = [
        tensor
        for module in family.parts.values()
        for tensor in (*module.parameters(), *module.buffers())
    ]
    assert {each.device for each in weights} == {META}
    # A tied weight is one storage.
    sizes = {each.untyped_storage()._cdata: each.untyped_storage().nbytes() for each in weights}
    assert meter.peak == pytest.approx(sum(sizes.values()), rel=1e-2)


PROMPT = "a photo of sks mug"


def draw(family: Family, prompt: str = PROMPT) -> np.ndarray:
    request = ImageRequest(prompt, 1)
    sampler = family.defaults.samplers[0]
    [image] = generate_images(
        family, [request], sampler=sampler, steps=2, guidance_scale=3.0, size=SIDE
    )
    return np.asarray(image)


def test_text_encoders_are_freed_once_all_prompts_are_encoded(family: Family) -> None:
    before, encoders = draw(family), dict(family.text_encoders)
    caption = family.encode_prompts([PROMPT, ""])
    family.retire_text_encoders(["", PROMPT], [""], META)
    assert all(weight.is_meta for each in encoders.values() for weight in each.parameters())
    for name, part in family.encode_prompts([PROMPT, ""]).items():
        torch.testing.assert_close(part, caption[name])
    assert (draw(family) == before).all()
    assert {part: getattr(family.pipeline(), part) for part in encoders} == encoders
    with pytest.raises(KeyError):
        draw(family, "a photo of a dog")


LORA_AND_TEXT = {"method": "lora", "precision": "bf16", "textEncoder": {"method": "full"}}


def test_adapters_are_merged_into_weights_that_were_not_rounded(
    random_model: Path, tmp_path: Path
) -> None:
    family = load(random_model, **LORA_AND_TEXT)
    source = load_file(random_model / "unet" / "diffusion_pytorch_model.safetensors")
    make_trainable(family, resolve_training(LORA_AND_TEXT))
    base = reload_denoiser(Model(source=str(random_model)), STORAGE, family.model_hash)
    export_pipeline(family, tmp_path, ABOUT, base=base)
    exported = load_file(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    # Adapters start without effect: nothing has changed yet.
    assert [n for n, value in exported.items() if not torch.equal(value, source[n].half())] == []


def test_adapters_are_not_merged_into_another_model(random_model: Path) -> None:
    with pytest.raises(BadModelError, match="has changed since the job loaded it"):
        reload_denoiser(Model(source=str(random_model)), STORAGE, "hash of another model")
