"""Exports a LoRA in the formats of diffusers and of kohya's sd-scripts, ComfyUI and A1111."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from dreambooth_trainer.export.model_card import model_card
from dreambooth_trainer.export.names import has_open_clip, with_text_model
from dreambooth_trainer.export.provenance import Provenance
from dreambooth_trainer.export.weights import save_weights

LORA_FILE = "pytorch_lora_weights.safetensors"
"""The name that `pipe.load_lora_weights(folder)` looks for."""

KOHYA_FILE = "kohya_lora.safetensors"
"""The same adapters under the names of kohya's sd-scripts."""

KOHYA_PREFIXES = {"unet": "lora_unet", "text_encoder": "lora_te"}


@dataclass(frozen=True)
class Adapter:
    """One module's adapter: its weight changes by alpha / rank x up @ down (Hu et al. 2021)."""

    part: str
    """Part of the pipeline: `unet` or `text_encoder`."""
    module: str
    """Name of the module within the part."""
    down: Tensor
    """[rank, inputs, ...]"""
    up: Tensor
    """[outputs, rank, ...]"""
    scale: float
    """alpha / rank"""

    @property
    def rank(self) -> int:
        """Rank of the change."""
        return len(self.down)


def export_lora(
    pipeline: Any, folder: Path, provenance: Provenance, adapter: str = "default"
) -> None:
    """Write the adapters of the pipeline's UNet and text encoder to `folder`.

    `StableDiffusionPipeline.load_lora_weights(folder)` loads `LORA_FILE`; other tools load
    `KOHYA_FILE`. Weights keep their dtype.

    Raises:
        ValueError: No module of the pipeline has an adapter of this name.
    """
    adapters = [
        each
        for part in KOHYA_PREFIXES
        for each in find_adapters(part, getattr(pipeline, part), adapter)
    ]
    if not adapters:
        raise ValueError(f"neither the UNet nor the text encoder has an adapter named {adapter!r}")
    folder.mkdir(parents=True, exist_ok=True)
    metadata = provenance.metadata()
    save_weights(diffusers_weights(adapters), folder / LORA_FILE, metadata)
    save_weights(
        kohya_weights(adapters), folder / KOHYA_FILE, metadata | kohya_metadata(pipeline, adapters)
    )
    (folder / "README.md").write_text(model_card(provenance, lora=True))


def find_adapters(part: str, root: nn.Module, adapter: str) -> list[Adapter]:
    """The adapters of this name in a part of the pipeline."""
    names = with_text_model if part == "text_encoder" else str
    return [
        Adapter(
            part,
            names(name),
            layer.lora_A[adapter].weight,
            layer.lora_B[adapter].weight,
            layer.scaling[adapter],
        )
        for name, layer in root.named_modules()
        if isinstance(layer, LoraLayer) and adapter in layer.scaling
    ]


def diffusers_weights(adapters: list[Adapter]) -> dict[str, Tensor]:
    """Tensors as diffusers names them.

    The format has no alpha: without metadata, diffusers takes it to be the rank. The scale is
    therefore part of `lora_B`.
    """
    weights = {}
    for each in adapters:
        name = f"{each.part}.{each.module}"
        weights[f"{name}.lora_A.weight"] = each.down
        weights[f"{name}.lora_B.weight"] = each.up * each.scale
    return weights


def kohya_weights(adapters: list[Adapter]) -> dict[str, Tensor]:
    """Tensors as sd-scripts names them, with an `alpha` for each module."""
    weights = {}
    for each in adapters:
        name = f"{KOHYA_PREFIXES[each.part]}_{each.module}".replace(".", "_")
        weights[f"{name}.lora_down.weight"] = each.down
        weights[f"{name}.lora_up.weight"] = each.up
        weights[f"{name}.alpha"] = torch.tensor(each.scale * each.rank)
    return weights


def kohya_metadata(pipeline: Any, adapters: list[Adapter]) -> dict[str, str]:
    """What sd-scripts and the web UIs read from a file's header."""
    first = adapters[0]
    is_v2 = has_open_clip(pipeline)
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(first.rank),
        "ss_network_alpha": str(first.scale * first.rank),
        "ss_v2": str(is_v2),
        "ss_base_model_version": "sd_v2" if is_v2 else "sd_v1",
    }
