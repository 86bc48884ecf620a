"""Every family can be trained with frozen weights in few bits."""

import re
from pathlib import Path

import torch
from torch import Tensor

from dreambooth_api.models.model import Model, Quantization
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.models import Family, load_family
from dreambooth_trainer.models.adapters.trainable import make_trainable
from dreambooth_trainer.models.quantization.linear import QuantizedLinear
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.topology import Topology
from tests.trainer.families.conftest import SIDE
from tests.trainer.resolved import resolve_training

TRAINING = resolve_training({"method": "lora", "precision": "fp32"})
SMALL = re.compile(r"\b(norm\w*|\w+_mod|adaLN_modulation|time_emb_proj)\b")
LARGE = re.compile(r"\battn|\battention\b|\bff\b|feed_forward|mlp")


def load(folder: Path, quantization: Quantization | None) -> Family:
    model = Model(source=str(folder), quantization=quantization)
    cpu = torch.device("cpu")
    return load_family(model, Storage(StorageSettings()), Ranks(Topology()), cpu, TRAINING)


def predict(family: Family) -> Tensor:
    """For fixed noise at a middle level, as in training."""
    torch.manual_seed(1)
    noisy = torch.randn(2, *family.latent_shape(SIDE))
    times = torch.tensor([0.5, 0.5] if family.objective_kind == "flow" else [500, 500])
    return family.predict(noisy, times, family.encode_prompts(["a photo of sks mug", "a mug"]))


def test_a_quantized_model_predicts_nearly_the_same_and_trains(folder: Path) -> None:
    errors = {}
    with torch.no_grad():
        expected = predict(load(folder, None))
    for denoiser in ("int8", "nf4"):
        family = load(folder, Quantization(denoiser=denoiser, text_encoders="int8"))
        with torch.no_grad():
            found = predict(family)
        errors[denoiser] = float((found - expected).norm() / expected.norm())
    assert 0 < errors["int8"] < 0.1
    assert errors["int8"] < errors["nf4"] < 0.6

    trained = make_trainable(family, TRAINING).all
    predict(family).square().sum().backward()
    gradients = [each.grad for each in trained.values()]
    assert all(each is not None for each in gradients)
    assert any(bool(each.any()) for each in gradients if each is not None)


def test_the_layers_of_the_blocks_are_quantized_alone(folder: Path) -> None:
    family = load(folder, Quantization())
    layers = {
        name: module
        for name, module in family.denoiser.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    formats = {
        name: module.format if isinstance(module, QuantizedLinear) else None
        for name, module in layers.items()
    }
    in_blocks = {name for name in layers if re.search(r"\.\d+\.", name)}
    assert not {name for name, format in formats.items() if format} - in_blocks
    assert {formats[name] for name in in_blocks if SMALL.search(name)} <= {"int8"}
    large = {name for name in in_blocks if LARGE.search(name) and not SMALL.search(name)}
    assert {formats[name] for name in large} == {"nf4"}
    text = [module for each in family.text_encoders.values() for module in each.modules()]
    assert not any(isinstance(module, QuantizedLinear) for module in text)
