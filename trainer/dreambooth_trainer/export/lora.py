"""Exports adapters and learned words in the formats of diffusers, of peft, and of web UIs."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
from peft import PeftModel
from peft.tuners.lycoris_utils import LycorisLayer
from torch import Tensor, nn

from dreambooth_trainer.export.model_card import model_card
from dreambooth_trainer.export.provenance import Provenance
from dreambooth_trainer.export.tokens import save_words
from dreambooth_trainer.export.weights import save_weights
from dreambooth_trainer.models.adapters.exported import (
    Adapter,
    find_adapters,
    find_lycoris_adapters,
)
from dreambooth_trainer.models.clip import exported_name
from dreambooth_trainer.models.family import Family
from dreambooth_trainer.models.names.lycoris import dora_file, lycoris_file
from dreambooth_trainer.process.errors import BadModelError

LORA_FILE = "pytorch_lora_weights.safetensors"
"""The name that `pipe.load_lora_weights(folder)` looks for."""

KOHYA_FILE = "kohya_lora.safetensors"
"""The same adapters under the names of kohya's sd-scripts, or of LyCORIS."""

LORA_PARAMETER = re.compile(
    r"(?P<module>.+)\.(?P<matrix>lora_A|lora_B|lora_magnitude_vector)\.(?P<adapter>[^.]+)\.weight"
)
"""The name of a parameter of peft."""

MATRICES = (".lora_A.weight", ".lora_B.weight")
"""Ends of the names of those that every LoRA has, as diffusers stores them."""

PEFT_FOLDER = "peft"
"""LoKr and LoHa: a folder of each part in it, for `PeftModel.from_pretrained`."""


def export_lora(
    family: Family, folder: Path, provenance: Provenance, adapter: str = "default"
) -> None:
    """Write the adapters of denoiser and text encoders, and learned words, to `folder`.

    `load_adapters` loads `LORA_FILE`, or `PEFT_FOLDER` with those that diffusers does not know.
    Other tools load `KOHYA_FILE`, where the family has one. Weights keep their dtype. For words
    see `tokens.save_words`.

    Raises:
        ValueError: No module of the pipeline has an adapter of this name, and no word is learned.
    """
    parts = {family.denoiser_part: family.denoiser, **family.text_encoders}
    adapters = [
        each for part, module in parts.items() for each in find_adapters(part, module, adapter)
    ]
    lycoris = [
        each
        for part, module in parts.items()
        for each in find_lycoris_adapters(part, module, adapter)
    ]
    if not adapters and not lycoris and not family.words:
        raise ValueError(f"neither denoiser nor text encoder has an adapter named {adapter!r}")
    folder.mkdir(parents=True, exist_ok=True)
    metadata = provenance.metadata()
    for part in sorted({each.part for each in lycoris}):
        _save_peft(parts[part], adapter, folder / PEFT_FOLDER / part, metadata)
    if family.words:
        save_words(family, folder, metadata)
    is_dora = not lycoris and bool(adapters) and adapters[0].magnitude is not None
    web_ui: tuple[dict[str, Tensor], dict[str, str]] | None = None
    if lycoris:
        web_ui = lycoris_file(lycoris, family.web_ui_name)
    elif adapters:
        save_weights(diffusers_weights(adapters), folder / LORA_FILE, metadata)
        web_ui = (
            dora_file(adapters, family.web_ui_name) if is_dora else family.web_ui_lora(adapters)
        )
    if web_ui:
        weights, header = web_ui
        save_weights(weights, folder / KOHYA_FILE, metadata | header)
    card = model_card(
        family,
        provenance,
        lora=True,
        adapters=bool(adapters or lycoris),
        web_ui_file=KOHYA_FILE if web_ui else None,
        peft_parts=sorted({each.part for each in lycoris}),
        dora=is_dora,
    )
    (folder / "README.md").write_text(card)


def load_adapters(pipeline: Any, folder: Path, adapter: str = "default") -> None:
    """Add exported adapters to a pipeline of their base model.

    Args:
        pipeline: The pipeline; of LoKr and LoHa, without other adapters.
        folder: What `export_lora` has written.
        adapter: The name that they get.

    Raises:
        BadModelError: The pipeline is not of their base model: it has no place for some of them.
    """
    if (folder / LORA_FILE).exists():
        weights = safetensors.torch.load_file(folder / LORA_FILE)
        try:
            pipeline.load_lora_weights(folder, adapter_name=adapter)
        except RuntimeError as error:
            if "mismatch" not in str(error):  # of sizes, as torch or transformers say it
                raise
            raise _does_not_fit(pipeline) from error
        placed = _restore_precision(pipeline, weights, adapter)
        # diffusers leaves out those of parts and layers that the pipeline does not have.
        if not placed >= {name for name in weights if name.endswith(MATRICES)}:
            raise _does_not_fit(pipeline)
        return
    for each in sorted((folder / PEFT_FOLDER).iterdir()):
        if each.name not in pipeline.components:
            raise _does_not_fit(pipeline)
        # Adds them to the part itself, which the pipeline has.
        PeftModel.from_pretrained(getattr(pipeline, each.name), each)


def _does_not_fit(pipeline: Any) -> BadModelError:
    return BadModelError(
        "spec.model.source: the adapters of the result do not fit this model, a"
        f" {type(pipeline).__name__}; name the one that they were trained on (--base)"
    )


def _restore_precision(pipeline: Any, weights: Mapping[str, Tensor], adapter: str) -> set[str]:
    """Give LoRA adapters the file's own values: peft has rounded them to their base's precision.

    Returns:
        The names of those that the pipeline has.
    """
    placed = set()
    for part, root in pipeline.components.items():
        for name, parameter in root.named_parameters() if isinstance(root, nn.Module) else ():
            match = LORA_PARAMETER.fullmatch(name)
            if match and match["adapter"] == adapter:
                module = exported_name(root, match["module"])
                key = f"{part}.{module}.{match['matrix']}.weight"
                parameter.data = weights[key].to(parameter.device).reshape(parameter.shape)
                placed.add(key)
    return placed


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
        if each.magnitude is not None:
            # As peft has it: the shape that a norm over the inputs leaves, its first two turned.
            shape = (1, -1, *[1] * (each.down.ndim - 2)) if each.down.ndim > 2 else (-1,)
            weights[f"{name}.lora_magnitude_vector.weight"] = each.magnitude.reshape(shape)
    return weights


def _save_peft(module: nn.Module, adapter: str, folder: Path, metadata: dict[str, str]) -> None:
    """Write a part's adapters as peft's own files."""
    weights = {
        f"base_model.model.{name}.{factor}": getattr(layer, factor)[adapter]
        for name, layer in module.named_modules()
        if isinstance(layer, LycorisLayer)
        for factor in layer.adapter_layer_names
        if adapter in getattr(layer, factor)
    }
    module.peft_config[adapter].save_pretrained(folder)  # type: ignore[index, union-attr]
    save_weights(weights, folder / "adapter_model.safetensors", metadata)
