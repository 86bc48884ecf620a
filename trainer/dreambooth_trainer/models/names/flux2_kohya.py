"""LoRA of FLUX.2 under the names of its original code, as sd-scripts and ComfyUI have them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dreambooth_trainer.models.adapters.exported import Adapter
from dreambooth_trainer.models.names.kohya import kohya_lora

DOUBLE = {
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "ff.linear_in": "img_mlp.0",
    "ff.linear_out": "img_mlp.2",
    "ff_context.linear_in": "txt_mlp.0",
    "ff_context.linear_out": "txt_mlp.2",
}
SINGLE = {"attn.to_qkv_mlp_proj": "linear1", "attn.to_out": "linear2"}
FUSED = {
    "attn.to_q": ("img_attn.qkv", 0),
    "attn.to_k": ("img_attn.qkv", 1),
    "attn.to_v": ("img_attn.qkv", 2),
    "attn.add_q_proj": ("txt_attn.qkv", 0),
    "attn.add_k_proj": ("txt_attn.qkv", 1),
    "attn.add_v_proj": ("txt_attn.qkv", 2),
}
"""Projections that are one module in the original code, and their places in it."""


def flux2_kohya_lora(
    adapters: Sequence[Adapter],
) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Tensors and metadata as of `kohya_lora`; None if a module has no name there."""
    named: dict[str, Adapter] = {}
    fused: dict[str, list[Adapter | None]] = defaultdict(lambda: [None] * 3)
    for each in adapters:
        kind, _, rest = each.module.partition(".")
        number, _, module = rest.partition(".")
        if kind == "single_transformer_blocks" and module in SINGLE:
            named[f"single_blocks.{number}.{SINGLE[module]}"] = each
        elif kind == "transformer_blocks" and module in DOUBLE:
            named[f"double_blocks.{number}.{DOUBLE[module]}"] = each
        elif kind == "transformer_blocks" and module in FUSED:
            name, place = FUSED[module]
            fused[f"double_blocks.{number}.{name}"][place] = each
        else:
            return None
    named |= {name: _fuse(parts) for name, parts in fused.items()}
    first = adapters[0]
    return kohya_lora(
        [replace(each, module=name) for name, each in named.items()],
        lambda _part, module: f"lora_unet_{module.replace('.', '_')}",
        ss_network_dim=str(first.rank),
        ss_network_alpha=str(first.scale * first.rank),
    )


def _fuse(parts: Sequence[Adapter | None]) -> Adapter:
    """One adapter of three times the rank, whose `up` [3D, 3 rank] is zero but for three blocks."""
    some = next(part for part in parts if part)
    downs = [part.down if part else torch.zeros_like(some.down) for part in parts]
    ups = [
        part.up * (part.scale / some.scale) if part else torch.zeros_like(some.up) for part in parts
    ]
    up: Tensor = torch.block_diag(*ups)  # type: ignore[no-untyped-call]
    return Adapter(some.part, some.module, torch.cat(downs), up, some.scale)
