"""Which module each tensor of an adapter's file belongs to, under any tool's names. Pure."""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from dreambooth_trainer.models.adapters.change import has_shape_of
from dreambooth_trainer.models.adapters.exported import Adapter, LycorisAdapter
from dreambooth_trainer.models.clip import exported_name
from dreambooth_trainer.models.family import Family

MATRIX = re.compile(
    r"(?P<module>.+?)"
    r"(?:\.lora_(?P<new>A|B)(?:\.default)?\.weight"  # peft, diffusers
    r"|\.lora_(?P<kohya>down|up)\.weight"  # sd-scripts
    r"|[._]lora(?:_linear_layer)?\.(?P<old>down|up)\.weight)"  # diffusers before peft
)
DOWN = ("A", "down")
FACTOR = re.compile(r"(?P<module>.+?)\.(?P<factor>(hada|lokr)_(w[12]|w[12]_[ab]|t[12]))")
"""Of LyCORIS."""
ALPHA = ".alpha"
PEFT_PREFIX = "base_model.model."
CONFIG = "lora_adapter_metadata"
"""Where diffusers keeps peft's configuration, in the header of a file."""
MAX_RANK = 1024

OTHER_TYPES = {
    "a DoRA": r"\.(dora_scale|lora_magnitude_vector)",
    "a LoCon with a core tensor": r"\.lora_mid\.",
    "an adapter that replaces weights (diff)": r"\.diff(_b)?$|\.set_weight$",
    "an adapter with biases": r"\.lora_B(\.default)?\.bias",
    "a textual inversion embedding": r"^(emb_params|clip_[lg]|string_to_param)",
}
"""What cannot be read, by the names of its tensors."""
FAMILY_MARKS = {
    "Stable Diffusion XL": r"lora_te2_|text_encoder_2\.text_model|lora_unet_input_blocks_",
    "FLUX": r"double_blocks|single_transformer_blocks|single_blocks",
    "Stable Diffusion 3": r"joint_blocks|transformer_blocks[._]\d+[._]attn[._]add_[qkv]_proj",
    "Qwen-Image": r"transformer_blocks[._]\d+[._](img|txt)_(mlp|mod)",
    "Z-Image": r"(noise_refiner|context_refiner)",
}
"""Other families' names of modules."""
WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}
"""Families with a UNet, by the width of the text that it attends to."""


class UnreadableAdapterError(ValueError):
    """The file holds no LoRA of the model; the message follows its name."""


@dataclass
class _Tensors:
    """What a file has of one module."""

    down: Tensor | None = None
    up: Tensor | None = None
    alpha: float | None = None
    factors: dict[str, Tensor] = field(default_factory=dict)


def find_layers(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], family: Family
) -> tuple[list[Adapter], list[LycorisAdapter]]:
    """The layers in a file by the modules of a model: of LoRA, and of LoHa and LoKr.

    Args:
        tensors: By their names in the file. They may be on the meta device, alphas aside.
        metadata: Of the file's header.
        family: The model, without adapters.

    Raises:
        UnreadableAdapterError: It is of another model, or no such adapter.
    """
    for kind, pattern in OTHER_TYPES.items():
        if any(re.search(pattern, name) for name in tensors):
            raise UnreadableAdapterError(f"is {kind}; only LoRAs, LoHas and LoKrs can be read")
    known = dict(_known_names(family))
    found, unknown = _collect(tensors, known)
    if unknown:
        found, unknown = _collect(_renamed(tensors, family), known)
    if unknown or not found:
        raise UnreadableAdapterError(_of_another_model(tensors, metadata, family, unknown))
    config = _configuration(metadata)
    layers, lycoris = [], []
    for (part, name), each in sorted(found.items(), key=lambda item: item[0]):
        module = family.parts[part].get_submodule(name)
        if each.factors:
            lycoris.append(_lycoris_layer(part, name, each))
            fits = has_shape_of(lycoris[-1], module)
        else:
            layers.append(_lora_layer(part, name, each, config))
            fits = _fits(module, layers[-1])
        if not fits:
            raise UnreadableAdapterError(
                _of_another_model(tensors, metadata, family, [f"{part}.{name}"])
            )
    return layers, lycoris


def _lora_layer(part: str, module: str, found: _Tensors, config: Mapping[str, Any]) -> Adapter:
    if found.down is None or found.up is None:
        raise UnreadableAdapterError(f"is damaged: {part}.{module} has one matrix of two")
    rank = _checked_rank(found.down)
    alpha = found.alpha if found.alpha is not None else _alpha_of(config, part, module, rank)
    if not math.isfinite(alpha):
        raise UnreadableAdapterError(f"is damaged: {part}.{module} has the alpha {alpha}")
    return Adapter(part, module, found.down, found.up, alpha / rank)


def _checked_rank(tensor: Tensor) -> int:
    """The rank of an adapter, by the rows of one of its matrices."""
    rank = len(tensor) if tensor.ndim else 0
    if not 0 < rank <= MAX_RANK:
        raise UnreadableAdapterError(f"has the rank {rank}; 1 to {MAX_RANK} are taken")
    return rank


def _lycoris_layer(part: str, module: str, found: _Tensors) -> LycorisAdapter:
    """A layer of LoHa or LoKr; only with factors that are products, alpha / rank scales it."""
    ranks = [
        _checked_rank(tensor)
        for name, tensor in found.factors.items()
        if name.endswith(("w1_b", "w2_b"))
    ]
    rank = ranks[0] if ranks else 1
    scale = found.alpha / rank if ranks and found.alpha is not None else 1.0
    return LycorisAdapter(part, module, found.factors, rank, scale)


def _known_names(family: Family) -> Iterator[tuple[str, tuple[str, str]]]:
    """Names of modules in files, and the part and module that each is of."""
    prefixes = {
        family.denoiser_part: ("lora_unet", "lora_transformer", "lycoris"),
        "text_encoder": ("lora_te", "lora_te1"),
    }
    for part in (family.denoiser_part, *family.text_encoders):
        root = family.parts[part]
        for name, module in root.named_modules():
            if not isinstance(getattr(module, "weight", None), Tensor) or isinstance(
                module, nn.Embedding
            ):
                continue
            place, public = (part, name), exported_name(root, name)
            flat = public.replace(".", "_")
            yield f"{part}.{public}", place
            yield f"{part}.{name}", place
            for prefix in prefixes.get(part, (f"lora_te{part[-1]}",)):
                yield f"{prefix}_{flat}", place
            if module.weight.ndim > 1 and (part == family.denoiser_part or family.trains_text):
                yield family.web_ui_name(part, public), place
            if part == family.denoiser_part:
                yield name, place
                yield f"diffusion_model.{name}", place


def _collect(
    tensors: Mapping[str, Tensor], known: Mapping[str, tuple[str, str]]
) -> tuple[dict[tuple[str, str], _Tensors], list[str]]:
    """Tensors by part and module, and the names that are of no module."""
    found: dict[tuple[str, str], _Tensors] = defaultdict(_Tensors)
    unknown = []
    for name, tensor in tensors.items():
        match, factor = MATRIX.fullmatch(name), FACTOR.fullmatch(name)
        stem = match["module"] if match else name.removesuffix(ALPHA)
        place = _place(factor["module"] if factor else stem, known)
        if place is not None and factor:
            found[place].factors[factor["factor"]] = tensor
        elif place is None or (match is None and not name.endswith(ALPHA)):
            unknown.append(name)
        elif match is None:
            if tensor.numel() != 1:
                raise UnreadableAdapterError(f"is damaged: {name} has {tensor.numel()} values")
            found[place].alpha = float(tensor)
        elif _is_down(match):
            found[place].down = tensor
        else:
            found[place].up = tensor
    return found, unknown


def _is_down(match: re.Match[str]) -> bool:
    """Whether a name is that of the first matrix."""
    return (match["new"] or match["kohya"] or match["old"]) in DOWN


def _place(stem: str, known: Mapping[str, tuple[str, str]]) -> tuple[str, str] | None:
    """Part and module of a name, also of attention processors of diffusers before peft."""
    plain = stem.removeprefix(PEFT_PREFIX).replace(".processor.", ".")
    return next((known[each] for each in (stem, plain, f"{plain}.0") if each in known), None)


def _renamed(tensors: Mapping[str, Tensor], family: Family) -> Mapping[str, Tensor]:
    """The tensors under the names of diffusers, as far as diffusers knows the file's own names."""
    try:
        converted = family.pipeline_class.lora_state_dict(dict(tensors))
    except Exception:  # names that it does not know make it raise anything
        return tensors
    if isinstance(converted, tuple):
        weights, alphas, *_ = converted
        return {**weights, **(alphas or {})}
    renamed: Mapping[str, Tensor] = converted
    return renamed


def _fits(module: nn.Module, layer: Adapter) -> bool:
    """Whether up x down has the shape of the module's weight."""
    down, up = layer.down, layer.up
    if isinstance(module, nn.Linear):  # quantized weights have other shapes
        outputs, inputs = module.out_features, module.in_features
    else:
        weight: Any = module.weight
        outputs, inputs = len(weight), math.prod(weight.shape[1:])
    if down.ndim < 2 or up.ndim < 2 or len(down) != up.shape[1] or len(up) != outputs:
        return False
    return inputs == math.prod(down.shape[1:]) and math.prod(up.shape[2:]) == 1


def _configuration(metadata: Mapping[str, str]) -> Mapping[str, Any]:
    """The configuration of peft, as diffusers keeps it: `unet.lora_alpha`, and others."""
    try:
        config = json.loads(metadata.get(CONFIG, "{}"))
    except (ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def _alpha_of(config: Mapping[str, Any], part: str, module: str, rank: int) -> float:
    """The alpha with which alpha / rank is the scale; the rank, if the file does not say."""
    alpha = config.get(f"{part}.lora_alpha")
    patterns = config.get(f"{part}.alpha_pattern")
    # Compared as names, although peft takes them for regular expressions: a file is not trusted.
    for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
        if f".{module}".endswith(f".{pattern.removeprefix('^')}"):
            alpha = value
    if not isinstance(alpha, (int, float)) or alpha <= 0:
        return rank
    return float(alpha * math.sqrt(rank) if config.get(f"{part}.use_rslora") else alpha)


def _of_another_model(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    family: Family,
    unknown: list[str],
) -> str:
    """That the file is not of this model, and of which it is, as far as it shows that."""
    if not any(MATRIX.fullmatch(name) or FACTOR.fullmatch(name) for name in tensors):
        return "holds no LoRA; name a LoRA's .safetensors file"
    said = metadata.get("modelspec.architecture") or metadata.get("ss_base_model_version")
    guess = said or _guess_family(tensors)
    example = f" (it has {unknown[0]})" if unknown else ""
    return (
        f"is a LoRA for {guess or 'another model'}, and the base model is of {family.name}"
        f"{example}; name a LoRA of the base model"
    )


def _guess_family(tensors: Mapping[str, Tensor]) -> str | None:
    for name, tensor in tensors.items():
        match = MATRIX.fullmatch(name)
        if match and _is_down(match) and re.search(r"attn2[._]to_k$", match["module"]):
            return WIDTHS.get(tensor.shape[1])
    names = "\n".join(tensors)
    return next((name for name, mark in FAMILY_MARKS.items() if re.search(mark, names)), None)
