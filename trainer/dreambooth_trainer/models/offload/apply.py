"""Which layers of a denoiser wait in host memory, and how they take the place of its own."""

import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import nn

from dreambooth_api.models.pods.runtime import Offload
from dreambooth_trainer.models.adapters.targets import layers_of_blocks
from dreambooth_trainer.models.offload.linear import OffloadedLinear, stored
from dreambooth_trainer.models.offload.window import OffloadedBlock, Window, aligned
from dreambooth_trainer.models.sharding import blocks

LEAST = 0.1
"""Of the largest block: smaller ones stay on the device, as no copy fits behind their work."""

Layers = dict[str, nn.Linear]
"""The linear layers of a block, by their names in the denoiser."""


def offload(
    denoiser: nn.Module, not_adapted: Sequence[str], setting: Offload, device: torch.device
) -> None:
    """Leave the weights of linear layers in host memory, and move all else to the device.

    Args:
        denoiser: On any device, frozen, without adapters.
        not_adapted: The family's.
        setting: `spec.runtime.offload`.
        device: Where the model is trained.
    """
    chosen = offloaded_layers(denoiser, not_adapted, setting)
    if chosen:
        window = Window(max(map(_size, chosen)), device)
        for layers in chosen:
            _replace(denoiser, layers, window)
    denoiser.to(device)


def offloaded_bytes(denoiser: nn.Module, not_adapted: Sequence[str], setting: Offload) -> int:
    """Bytes that `offload` saves on the device: those of the layers, but for the window's."""
    sizes = [_size(layers) for layers in offloaded_layers(denoiser, not_adapted, setting)]
    return max(sum(sizes) - 2 * max(sizes, default=0), 0)


def offloaded_layers(
    denoiser: nn.Module, not_adapted: Sequence[str], setting: Offload
) -> list[Layers]:
    """The layers of each block that waits in host memory, in the order of the model.

    Blocks that stay are spread evenly, so that copies fit behind their work.
    """
    names = {module: name for name, module in denoiser.named_modules()}
    inner_first = [names[block] for block in blocks(denoiser)]
    by_block: defaultdict[str, Layers] = defaultdict(dict)
    for name, layer in layers_of_blocks(denoiser, (nn.Linear,), not_adapted).items():
        assert isinstance(layer, nn.Linear)
        block = next((each for each in inner_first if name.startswith(f"{each}.")), None)
        if block is not None:
            by_block[block][name] = layer
    largest = max(map(_size, by_block.values()), default=0)
    found = [layers for layers in by_block.values() if _size(layers) >= LEAST * largest]
    share = setting.fraction
    return [
        layers
        for index, layers in enumerate(found)
        if math.floor((index + 1) * share) > math.floor(index * share)
    ]


def _size(layers: Layers) -> int:
    """Bytes of a block on the host."""
    return sum(aligned(tensor.nbytes) for layer in layers.values() for tensor in stored(layer))


def _replace(denoiser: nn.Module, layers: Layers, window: Window) -> None:
    kept = {name: stored(layer) for name, layer in layers.items()}
    block = OffloadedBlock([tensor for tensors in kept.values() for tensor in tensors], window)
    first = 0
    for name, layer in layers.items():
        denoiser.set_submodule(name, OffloadedLinear(layer, block, first))
        first += len(kept[name])
