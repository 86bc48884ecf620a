"""Exports a LoRA in the format that diffusers loads."""

import json
from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor

from dreambooth_trainer.export.model_card import model_card
from dreambooth_trainer.export.provenance import Provenance
from dreambooth_trainer.export.weights import save_weights

LORA_FILE = "pytorch_lora_weights.safetensors"
"""The name that `pipe.load_lora_weights(folder)` looks for."""

CONFIG_FIELDS = (
    "r",
    "lora_alpha",
    "target_modules",
    "lora_dropout",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "use_dora",
)
"""Fields of `LoraConfig` that affect the arithmetic. peft refuses fields that it does not know, and
other versions of it may not know the others."""


def export_lora(
    pipeline: Any, folder: Path, provenance: Provenance, adapter: str = "default"
) -> None:
    """Write the adapters of the pipeline's UNet and text encoder to `folder`.

    `StableDiffusionPipeline.load_lora_weights(folder)` loads them. Rank, alpha and targets go into
    the file's metadata (key `lora_adapter_metadata`), so a scale alpha / rank other than 1 is
    kept. Weights keep their dtype.

    Raises:
        ValueError: No module of the pipeline has an adapter of this name.
    """
    weights: dict[str, Tensor] = {}
    configs: dict[str, Any] = {}
    for part in ("unet", "text_encoder"):
        module = getattr(pipeline, part)
        config = getattr(module, "peft_config", {}).get(adapter)
        if config is not None:
            state = get_peft_model_state_dict(module, adapter_name=adapter)
            weights |= {f"{part}.{_portable(part, name)}": value for name, value in state.items()}
            configs |= {f"{part}.{name}": value for name, value in _config_fields(config).items()}
    if not weights:
        raise ValueError(f"neither the UNet nor the text encoder has an adapter named {adapter!r}")
    folder.mkdir(parents=True, exist_ok=True)
    adapter_metadata = {"lora_adapter_metadata": json.dumps(configs, sort_keys=True)}
    save_weights(weights, folder / LORA_FILE, provenance.metadata() | adapter_metadata)
    (folder / "README.md").write_text(model_card(provenance, lora=True))


def _portable(part: str, name: str) -> str:
    """The parameter's name in a form that transformers 4 and 5 both load."""
    # Transformers 5 writes CLIP's names without the level `text_model`. It reads both forms, while
    # version 4 would initialise the weights randomly, with only a warning.
    if part == "text_encoder" and not name.startswith("text_model."):
        return f"text_model.{name}"
    return name


def _config_fields(config: LoraConfig) -> dict[str, Any]:
    fields = {name: getattr(config, name) for name in CONFIG_FIELDS}
    # JSON has no sets, and sorting makes equal exports equal files.
    return {name: sorted(v) if isinstance(v, set) else v for name, v in fields.items()}
