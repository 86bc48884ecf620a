"""Exports a whole pipeline with adapters merged: in the diffusers layout, and as one file."""

import copy
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import CLIPTokenizer

from dreambooth_trainer.export.model_card import model_card
from dreambooth_trainer.export.provenance import Provenance
from dreambooth_trainer.export.weights import save_weights
from dreambooth_trainer.models.clip import exported_name
from dreambooth_trainer.models.family import Family
from dreambooth_trainer.models.quantization.linear import FrozenLinear
from dreambooth_trainer.models.tokens.learn import has_words

log = logging.getLogger(__name__)

SINGLE_FILE = "single_file.safetensors"
"""The whole model in the layout of CompVis, for ComfyUI, A1111 and `from_single_file`."""


def export_pipeline(
    family: Family,
    folder: Path,
    provenance: Provenance,
    dtype: torch.dtype | None = None,
    base: nn.Module | None = None,
) -> None:
    """Write the whole pipeline to `folder`, with its card; see `write_pipeline`.

    Raises:
        OSError: A file cannot be written.
    """
    write_pipeline(family, folder, provenance.metadata(), dtype, base)
    file = SINGLE_FILE if (folder / SINGLE_FILE).exists() else None
    (folder / "README.md").write_text(model_card(family, provenance, lora=False, web_ui_file=file))


def write_pipeline(
    family: Family,
    folder: Path,
    metadata: Mapping[str, str],
    dtype: torch.dtype | None = None,
    base: nn.Module | None = None,
) -> None:
    """Write the whole pipeline to `folder`, its weights as safetensors in `dtype`.

    The default is the family's own. Adapters are merged into the weights of the copy that is
    written; the model is not changed. `base` is the denoiser in fp32 from before training, for
    one whose frozen weights training has kept in a lower precision.

    Raises:
        OSError: A file cannot be written.
    """
    pipeline = family.pipeline()
    bases = {family.denoiser_part: base}
    merged = {name: _merged(part, bases.get(name)) for name, part in pipeline.components.items()}
    # Converted below, file by file: the modules themselves may still be in use, and stay fp32.
    settings = {name: pipeline.config[name] for name in family.pipeline_settings}
    type(pipeline)(**merged, **settings).save_pretrained(folder, safe_serialization=True)
    for path in sorted(folder.rglob("*.safetensors")):
        part = family.parts[path.parent.name]
        _convert(path, part, dtype or family.export_dtype, metadata)
    for path in sorted(folder.rglob("config.json")):
        _clean_config(path)
    for name, tokenizer in family.tokenizers.items():
        if tokenizer is CLIPTokenizer:
            _write_slow_tokenizer(folder / name)
    _write_single_file(family, folder, metadata)


def _merged(part: Any, base: nn.Module | None) -> Any:
    """The component without adapters: itself, or a copy that they are merged into."""
    if not isinstance(part, nn.Module) or not any(
        isinstance(m, BaseTunerLayer) for m in part.modules()
    ):
        return part
    # Merged in fp32: in bf16, a small change would be rounded away when it is added.
    plain = copy.deepcopy(part)
    for name, layer in list(plain.named_modules()):
        if isinstance(layer, FrozenLinear):
            plain.set_submodule(name, layer.plain())
    plain.float()
    weights = base.state_dict() if base is not None else {}
    for name, parameter in plain.named_parameters():
        if (weight := weights.get(name.replace(".base_layer.", "."))) is not None:
            parameter.data.copy_(weight)
    for name, layer in list(plain.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            plain.set_submodule(name, layer.get_base_layer())
    # save_pretrained would otherwise save the adapters alone, which no longer exist.
    del plain.peft_config
    plain._hf_peft_config_loaded = False  # type: ignore[assignment]
    return plain


def _convert(path: Path, part: nn.Module, dtype: torch.dtype, metadata: Mapping[str, str]) -> None:
    """Rewrite a safetensors file in `dtype`, with this metadata."""
    weights = {
        exported_name(part, name): value.to(dtype) if value.is_floating_point() else value
        for name, value in safetensors.torch.load_file(path).items()
    }
    save_weights(weights, path, metadata)


def _clean_config(path: Path) -> None:
    """Remove the folder that the part was loaded from, and make fp32 its default precision."""
    # By default, diffusers loads fp32, and transformers what the config names: parts of different
    # precision do not run together. The published Stable Diffusion models name fp32 too.
    config = json.loads(path.read_text())
    config.pop("_name_or_path", None)
    if "dtype" in config:
        config["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _write_slow_tokenizer(folder: Path) -> None:
    """Write vocab.json and merges.txt, which CLIPTokenizer of transformers 4 needs.

    Transformers 5 saves tokenizer.json alone.
    """
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]) + "\n")


def _write_single_file(family: Family, folder: Path, metadata: Mapping[str, str]) -> None:
    """Write the weights in the pipeline's folder to one file, where the family has such files.

    Not of a model that has learned words: the file has no place for their names, and user
    interfaces expect as many embeddings as the original model has.
    """
    if has_words(family):
        log.warning("the export has no %s, as learned tokens are part of the model", SINGLE_FILE)
        return
    try:
        weights = family.single_file(lambda part: _load_part(folder / part))
    except KeyError as error:
        log.warning("the export has no %s: %s has no name in that layout", SINGLE_FILE, error)
        return
    if weights is not None:
        save_weights(weights, folder / SINGLE_FILE, metadata)


def _load_part(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    return {
        name: weight for file in files for name, weight in safetensors.torch.load_file(file).items()
    }
