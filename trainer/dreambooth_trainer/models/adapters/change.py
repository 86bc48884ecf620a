"""What an adapter adds to the weight of its module. Pure."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dreambooth_trainer.models.adapters.exported import Adapter, LycorisAdapter


def change_of(layer: Adapter | LycorisAdapter, device: torch.device) -> Tensor:
    """The change [outputs, ...] of a weight, flat in its inputs or of its shape.

    Sources: Hu et al. 2021, section 4.1; Yeh et al. 2023, sections 3.1 (LoHa) and 3.2 (LoKr).
    """
    if isinstance(layer, Adapter):
        down, up = layer.down.to(device), layer.up.to(device)
        return up.flatten(1) @ down.flatten(1) * layer.scale
    factors = {name: tensor.to(device) for name, tensor in layer.factors.items()}
    if "hada_w1_a" in factors:
        first, second = (_product(factors, f"hada_{each}", each[1]) for each in ("w1", "w2"))
        return first * second * layer.scale
    first, second = (_product(factors, f"lokr_{each}", each[1]) for each in ("w1", "w2"))
    first = first.reshape(*first.shape, *[1] * (second.ndim - first.ndim))
    return torch.kron(first, second) * layer.scale


def has_shape_of(layer: LycorisAdapter, module: nn.Module) -> bool:
    """Whether the change fits the module's weight; without computing it."""
    weight = module.get_parameter("weight")
    try:
        shape = change_of(layer, torch.device("meta")).shape
    except (IndexError, KeyError, RuntimeError):  # factors are missing, or do not fit each other
        return False
    return shape[:1] == weight.shape[:1] and math.prod(shape) == weight.numel()


def _product(factors: Mapping[str, Tensor], name: str, number: str) -> Tensor:
    """A factor itself, or the product that it is kept as (CP decomposition with a core)."""
    if name in factors:
        return factors[name]
    a, b = factors[f"{name}_a"], factors[f"{name}_b"]
    kind = name.partition("_")[0]
    if (core := factors.get(f"{kind}_t{number}")) is None:
        return a @ b.flatten(1)
    return torch.einsum("ijkl,ip,jr->prkl", core, a, b)
