"""Exports a whole pipeline in the diffusers layout, with adapters merged."""

import copy
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from dreambooth_trainer.export.model_card import model_card
from dreambooth_trainer.export.provenance import Provenance
from dreambooth_trainer.export.weights import save_weights


def export_pipeline(
    pipeline: Any, folder: Path, provenance: Provenance, dtype: torch.dtype = torch.float16
) -> None:
    """Write the whole pipeline to `folder`, its weights as safetensors in `dtype`.

    Adapters are merged into the weights of the copy that is written; `pipeline` is not changed.

    Raises:
        OSError: A file cannot be written.
    """
    merged = type(pipeline)(**{name: _merged(part) for name, part in pipeline.components.items()})
    # Converted below, file by file: the modules themselves may still be in use, and stay fp32.
    merged.save_pretrained(folder, safe_serialization=True)
    for path in sorted(folder.rglob("*.safetensors")):
        _convert(path, dtype, provenance)
    for path in sorted(folder.rglob("config.json")):
        _clean_config(path)
    (folder / "README.md").write_text(model_card(provenance, lora=False))


def _merged(part: Any) -> Any:
    """The component without adapters: itself, or a copy that they are merged into."""
    if not isinstance(part, nn.Module) or not any(
        isinstance(m, BaseTunerLayer) for m in part.modules()
    ):
        return part
    # Merged in fp32: in bf16, a small change would be rounded away when it is added.
    plain = copy.deepcopy(part).float()
    for name, layer in list(plain.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            plain.set_submodule(name, layer.get_base_layer())
    # save_pretrained would otherwise save the adapters alone, which no longer exist.
    del plain.peft_config
    plain._hf_peft_config_loaded = False  # type: ignore[assignment]
    return plain


def _convert(path: Path, dtype: torch.dtype, provenance: Provenance) -> None:
    """Rewrite a safetensors file in `dtype`, with the provenance in its metadata."""
    weights = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in safetensors.torch.load_file(path).items()
    }
    save_weights(weights, path, provenance.metadata())


def _clean_config(path: Path) -> None:
    """Remove the folder that the part was loaded from, and make fp32 its default precision."""
    # By default, diffusers loads fp32, and transformers what the config names: parts of different
    # precision do not run together. The published Stable Diffusion models name fp32 too.
    config = json.loads(path.read_text())
    config.pop("_name_or_path", None)
    if "dtype" in config:
        config["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
