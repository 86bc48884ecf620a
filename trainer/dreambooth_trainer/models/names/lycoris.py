"""Adapter files of LyCORIS, which ComfyUI loads too: LoKr, LoHa and DoRA."""

import json
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dreambooth_trainer.models.adapters.exported import Adapter, LycorisAdapter
from dreambooth_trainer.models.names.kohya import with_alpha


def dora_file(
    adapters: Sequence[Adapter], name_of: Callable[[str, str], str]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of DoRA; `dora_scale` [outputs, 1, ...] has a number for each row.

    ComfyUI divides the changed rows by the lengths of the base weight's rows (`weight_decompose`
    in comfy/weight_adapter/base.py); the paper and LyCORIS divide by those of the changed ones. The
    numbers here are those that are right in ComfyUI.

    Args:
        adapters: With magnitudes.
        name_of: The name in the file, by part and module.
    """
    weights = with_alpha(adapters, name_of)
    for each in adapters:
        assert each.magnitude is not None
        assert each.shrinkage is not None
        scale = each.magnitude * each.shrinkage
        shape = (-1, *[1] * (each.down.ndim - 1))
        weights[f"{name_of(each.part, each.module)}.dora_scale"] = scale.reshape(shape)
    return weights, _metadata("lora", dora_wd=True)


def lycoris_file(
    adapters: Sequence[LycorisAdapter], name_of: Callable[[str, str], str]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of LoKr or LoHa.

    The scale is part of a factor, and alpha the rank: LyCORIS has no scale where the factors of
    LoKr are no products, and peft always has one.

    Args:
        adapters: All of one type.
        name_of: The name in the file, by part and module.
    """
    weights = {}
    for each in adapters:
        name = name_of(each.part, each.module)
        first = next(iter(each.factors))
        for factor, value in each.factors.items():
            weights[f"{name}.{factor}"] = value * each.scale if factor == first else value
        weights[f"{name}.alpha"] = torch.tensor(float(each.rank))
    return weights, _metadata("lokr" if first.startswith("lokr") else "loha")


def _metadata(algorithm: str, **arguments: bool) -> dict[str, str]:
    """As sd-scripts writes it for a module of another package."""
    return {
        "ss_network_module": "lycoris.kohya",
        "ss_network_args": json.dumps({"algo": algorithm, **arguments}),
    }
