"""Exports a LoRA in the formats of diffusers and of kohya's sd-scripts, ComfyUI and A1111."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from dreambooth_trainer.export.model_card import model_card
from dreambooth_trainer.export.provenance import Provenance
from dreambooth_trainer.export.weights import save_weights
from dreambooth_trainer.models.family import Family
from dreambooth_trainer.models.lora import Adapter, find_adapters

LORA_FILE = "pytorch_lora_weights.safetensors"
"""The name that `pipe.load_lora_weights(folder)` looks for."""

KOHYA_FILE = "kohya_lora.safetensors"
"""The same adapters under the names of kohya's sd-scripts."""


def export_lora(
    family: Family, folder: Path, provenance: Provenance, adapter: str = "default"
) -> None:
    """Write the adapters of the denoiser and the text encoders to `folder`.

    `pipe.load_lora_weights(folder)` loads `LORA_FILE`; other tools load `KOHYA_FILE`, where the
    family has one. Weights keep their dtype.

    Raises:
        ValueError: No module of the pipeline has an adapter of this name.
    """
    parts = {family.denoiser_part: family.denoiser, **family.text_encoders}
    adapters = [
        each for part, module in parts.items() for each in find_adapters(part, module, adapter)
    ]
    if not adapters:
        raise ValueError(f"neither denoiser nor text encoder has an adapter named {adapter!r}")
    folder.mkdir(parents=True, exist_ok=True)
    metadata = provenance.metadata()
    save_weights(diffusers_weights(adapters), folder / LORA_FILE, metadata)
    if web_ui := family.web_ui_lora(adapters):
        weights, header = web_ui
        save_weights(weights, folder / KOHYA_FILE, metadata | header)
    file = KOHYA_FILE if web_ui else None
    (folder / "README.md").write_text(model_card(family, provenance, lora=True, web_ui_file=file))


def diffusers_weights(adapters: Sequence[Adapter]) -> dict[str, Tensor]:
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
