"""Frozen weights that wait in host memory: what is on the device and when; nothing else changes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dreambooth_api.models.model import Model, Quantization
from dreambooth_api.models.pods.runtime import Offload
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.models import Family, load_family
from dreambooth_trainer.models.adapters.trainable import make_trainable
from dreambooth_trainer.models.offload.apply import offload, offloaded_bytes
from dreambooth_trainer.models.offload.linear import OffloadedLinear
from dreambooth_trainer.models.offload.window import OffloadedBlock, Window
from dreambooth_trainer.models.tokens.learn import add_words, token_rows
from dreambooth_trainer.models.tokens.names import LearnedWord
from dreambooth_trainer.preflight.memory.meta_device import META, MemoryMeter
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.topology import Topology
from tests.trainer.resolved import resolve_training

CPU = torch.device("cpu")
STORAGE = Storage(StorageSettings())


def load(
    folder: Path, setting: Offload | None, device: torch.device = CPU, **training: Any
) -> Family:
    quantization = training.pop("quantization", None)
    model = Model(source=str(folder), quantization=quantization)
    resolved = resolve_training({"method": "lora", "precision": "fp32", **training})
    return load_family(model, STORAGE, Ranks(Topology()), device, resolved, offload=setting)


def curve(family: Family, caption: str | None = None, **training: Any) -> list[Tensor]:
    """Losses of some steps, and the trained weights after them.

    `caption` is encoded in every step; without one, the denoiser is conditioned on noise.
    """
    resolved = resolve_training({"method": "lora", "precision": "fp32", **training})
    trained = make_trainable(family, resolved).all
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    torch.manual_seed(2)
    conditioning = {"hidden_states": torch.randn(2, 77, 16)}
    losses = []
    for step in range(3):
        if caption is not None:
            conditioning = family.encode_tokens(family.tokenize([caption] * 2))
        noisy, target = torch.randn(2, 2, 4, 16, 16)
        with torch.autocast("cpu", torch.bfloat16, resolved.precision == "bf16"):
            prediction = family.predict(noisy, torch.tensor([500, 20 * step]), conditioning)
            loss = (prediction - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return [*losses, *(parameter.detach() for parameter in trained.values())]


@pytest.mark.parametrize(
    ("training", "quantization"),
    [
        ({}, None),
        ({"gradientCheckpointing": True, "precision": "bf16"}, None),
        ({"gradientCheckpointing": True}, Quantization(denoiser="nf4")),
    ],
    ids=["fp32", "bf16-checkpointed", "nf4-checkpointed"],
)
def test_training_is_the_same_bit_for_bit(
    random_model: Path, training: dict[str, Any], quantization: Quantization | None
) -> None:
    results = [
        curve(load(random_model, setting, quantization=quantization, **training), **training)
        for setting in (None, Offload(), Offload(fraction=0.5))
    ]
    assert len({float(loss) for loss in results[0][:3]}) == 3
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pytest.mark.parametrize(
    "lora", [{"init": "pissa"}, {"type": "lokr"}, {"type": "loha"}], ids=lambda each: str(each)
)
def test_adapters_of_other_types_train_the_same(random_model: Path, lora: dict[str, Any]) -> None:
    training = {"lora": {"rank": 2, **lora}}
    plain, offloaded = (
        curve(load(random_model, setting, **training), **training) for setting in (None, Offload())
    )
    assert all(map(torch.equal, plain, offloaded))


def test_a_token_is_learned_through_offloaded_layers(random_model: Path) -> None:
    """Beside adapters: its gradient comes through the weights that keys and values are made by."""
    results = []
    for setting in (None, Offload()):
        family = load(random_model, setting)
        add_words(family, [LearnedWord("sks", "a", 2)])
        [rows] = token_rows(family).values()
        start = rows.detach().clone()
        results.append(curve(family, "a photo of sks mug"))
        assert rows.ne(start).all()
    assert all(map(torch.equal, *results))


def test_the_device_holds_no_more_than_two_blocks(
    random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Weights on the meta device have no values to check.
    monkeypatch.setattr("dreambooth_trainer.models.load.check_finite", lambda *_: None)
    sizes = {}
    for setting in (None, Offload(fraction=0.5), Offload()):
        with MemoryMeter() as meter:
            family = load(random_model, setting, META)
        sizes[setting.fraction if setting else 0] = meter.peak
    whole = load(random_model, None)
    saved = {
        fraction: offloaded_bytes(whole.denoiser, whole.not_adapted, Offload(fraction=fraction))
        for fraction in (0.5, 1.0)
    }
    assert 0 < saved[0.5] < saved[1.0]
    # Padding to aligned memory, and what autocast and the libraries hold, are small.
    assert sizes[0] - sizes[1.0] == pytest.approx(saved[1.0], rel=0.05)
    assert sizes[0] - sizes[0.5] == pytest.approx(saved[0.5], rel=0.05)
    layers = [each for each in family.denoiser.modules() if isinstance(each, OffloadedLinear)]
    assert len({each.weight.untyped_storage()._cdata for each in layers}) == 1


def test_a_block_is_copied_while_the_one_before_it_computes() -> None:
    window = Window(1024, CPU)
    tensors = [[torch.full((4,), float(index)), torch.ones(index + 1)] for index in range(5)]
    blocks = [OffloadedBlock(each, window) for each in tensors]
    late: list[int] = []

    def go(order: list[int]) -> None:
        for index in order:
            is_there = any(held is blocks[index] for held in window._held)
            late.extend([] if is_there else [index])
            filled, ones = blocks[index].on_device()
            assert filled.eq(index).all()
            assert ones.shape == (index + 1,)

    there_and_back = [0, 1, 2, 3, 4, 4, 3, 2, 1, 0]
    go(there_and_back)
    late.clear()
    go(there_and_back)
    assert late == []
    go([0, 1, 2, 3, 4])  # images are made between two steps
    go(there_and_back)
    late.clear()
    go(there_and_back)
    assert late == []


def test_small_blocks_and_other_layers_stay_on_the_device() -> None:
    class Block(nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.inner = nn.Linear(size, size)

    class Denoiser(nn.Module):
        _no_split_modules = ("Block",)

        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(8, 8)
            self.blocks = nn.ModuleList(Block(size) for size in (64, 4, 64))

    denoiser = Denoiser()
    offload(denoiser, (), Offload(), CPU)
    found = [n for n, layer in denoiser.named_modules() if isinstance(layer, OffloadedLinear)]
    assert found == ["blocks.0.inner", "blocks.2.inner"]
