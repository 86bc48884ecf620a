"""The adapters of a model, as they are exported."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lycoris_utils import LycorisLayer
from torch import Tensor, nn

from dreambooth_trainer.models.clip import exported_name

START = "start"
"""The name of a frozen adapter that subtracts what another one has started with (PiSSA)."""


@dataclass(frozen=True)
class Adapter:
    """One module's adapter: its weight changes by alpha / rank x up @ down (Hu et al. 2021)."""

    part: str
    """Folder of the pipeline's part, such as `unet` or `text_encoder`."""
    module: str
    """Name of the module within the part."""
    down: Tensor
    """[rank, inputs, ...]"""
    up: Tensor
    """[outputs, rank, ...]"""
    scale: float
    """alpha / rank"""
    magnitude: Tensor | None = None
    """[outputs], the lengths of the changed weight's rows (DoRA: Liu et al. 2024, equation 5)."""
    shrinkage: Tensor | None = None
    """[outputs], the length of each row of the base weight over that of base and change (DoRA)."""

    @property
    def rank(self) -> int:
        """Rank of the change."""
        return len(self.down)


@dataclass(frozen=True)
class LycorisAdapter:
    """One module's adapter of LoKr or LoHa, which are no product of two matrices."""

    part: str
    """Folder of the pipeline's part."""
    module: str
    """Name of the module within the part."""
    factors: Mapping[str, Tensor]
    """By the names of LyCORIS and peft, such as `lokr_w1` or `hada_w1_a`."""
    rank: int
    """Of the factors that are products themselves."""
    scale: float
    """Of the change: alpha / rank."""


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter's file."""

    sha256: str
    """Of the file, and of scales that are kept beside it; "" if only its header was read."""
    layers: Sequence[Adapter]
    """Their modules have the names of the model's own. They may be on the meta device."""
    lycoris: Sequence[LycorisAdapter] = ()
    """Those of LoHa and LoKr, likewise."""

    def of_part(self, part: str) -> dict[str, Adapter]:
        """The LoRA layers of a part of the pipeline, by their modules."""
        return {each.module: each for each in self.layers if each.part == part}


def find_adapters(part: str, root: nn.Module, adapter: str) -> list[Adapter]:
    """The LoRA adapters of this name in a part of the pipeline, with what they start from."""
    return [
        _read(part, exported_name(root, name), layer, adapter)
        for name, layer in root.named_modules()
        if isinstance(layer, LoraLayer) and adapter in layer.scaling
    ]


def _read(part: str, module: str, layer: LoraLayer, adapter: str) -> Adapter:
    names = [adapter, *([START] if START in layer.scaling else [])]
    down = torch.cat([layer.lora_A[name].weight for name in names])
    up = torch.cat([layer.lora_B[name].weight for name in names], dim=1)
    scale = layer.scaling[adapter]
    if adapter not in layer.lora_magnitude_vector:
        return Adapter(part, module, down, up, scale)
    magnitude = layer.lora_magnitude_vector[adapter].weight.flatten()
    base = layer.get_base_layer().weight.detach().float().flatten(1)
    change = scale * up.detach().flatten(1) @ down.detach().flatten(1)
    shrinkage = row_lengths(base) / row_lengths(base + change)
    return Adapter(part, module, down, up, scale, magnitude, shrinkage)


def find_lycoris_adapters(part: str, root: nn.Module, adapter: str) -> list[LycorisAdapter]:
    """The adapters of LoKr or LoHa of this name in a part of the pipeline."""
    return [
        LycorisAdapter(
            part,
            exported_name(root, name),
            {
                factor: getattr(layer, factor)[adapter]
                for factor in layer.adapter_layer_names
                if adapter in getattr(layer, factor)
            },
            layer.r[adapter],
            layer.scaling[adapter],
        )
        for name, layer in root.named_modules()
        if isinstance(layer, LycorisLayer) and adapter in layer.scaling
    ]


def row_lengths(weight: Tensor) -> Tensor:
    """The lengths of the rows of a weight [outputs, inputs, ...], fp32."""
    lengths: Tensor = torch.linalg.norm(weight.detach().float().flatten(1), dim=1)
    return lengths
