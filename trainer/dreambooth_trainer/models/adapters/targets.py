"""Which modules of a part get an adapter, and of which size. Pure."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from torch import Tensor, nn

from dreambooth_api.models.lora import Lora, TargetPreset
from dreambooth_trainer.models.family import Family

_Value = TypeVar("_Value", int, float)

LAYERS: Mapping[TargetPreset, tuple[type[nn.Module], ...]] = {
    "linear": (nn.Linear,),
    "convolutions": (nn.Linear, nn.Conv1d, nn.Conv2d),
}
"""The classes that a preset adapts; `attention` is a matter of names."""


def adapted_modules(family: Family, part: str, lora: Lora) -> dict[str, nn.Module]:
    """The modules of a part of the pipeline that get adapters, by their names.

    Args:
        family: The model, without adapters.
        part: The folder of the denoiser or of a text encoder.
        lora: `spec.training.lora` with the model's defaults.
    """
    module = family.parts[part]
    if classes := LAYERS.get(lora.target_preset or "attention"):
        return layers_of_blocks(module, classes, family.not_adapted)
    if part == family.denoiser_part:
        return named_modules(module, lora.targets or ())
    return named_modules(module, family.lora_text_targets)


def named_modules(part: nn.Module, ends: Sequence[str]) -> dict[str, nn.Module]:
    """Layers with a matrix of weights whose names end in one of these, as far as peft adapts them.

    Not grouped convolutions, as with presets, nor embeddings, whose adapters have another form.
    """
    return {
        name: module
        for name, module in part.named_modules()
        if any(name == end or name.endswith(f".{end}") for end in ends)
        and isinstance(weight := getattr(module, "weight", None), Tensor)
        and weight.ndim > 1
        and not isinstance(module, nn.Embedding)
        and getattr(module, "groups", 1) == 1
    }


def layers_of_blocks(
    part: nn.Module, classes: tuple[type[nn.Module], ...], excluded: Sequence[str]
) -> dict[str, nn.Module]:
    """Layers of the numbered blocks: not those that embed the input or make the output.

    Nor grouped convolutions: peft cannot merge their adapters.
    """
    return {
        name: module
        for name, module in part.named_modules()
        if isinstance(module, classes)
        and getattr(module, "groups", 1) == 1
        and any(piece.isdigit() for piece in name.split(".")[:-1])
        and not name.startswith(tuple(f"{each}." for each in excluded))
    }


def rank_of(lora: Lora, module: str) -> int:
    """The rank of a module's adapter."""
    return find_by_pattern(lora.rank_pattern, module) or lora.rank


def alpha_of(lora: Lora, module: str) -> float:
    """The alpha of a module's adapter; its rank, if the job does not say."""
    return find_by_pattern(lora.alpha_pattern, module) or lora.alpha or rank_of(lora, module)


def find_by_pattern(values: Mapping[str, _Value], module: str) -> _Value | None:
    """The value of the longest pattern that fits the end of a module's name."""
    # Not the first one, as in peft: the API server does not keep the order of keys.
    fitting = [pattern for pattern in values if fits(pattern, module)]
    return values[max(fitting, key=lambda each: (len(each), each))] if fitting else None


def fits(pattern: str, module: str) -> bool:
    """Whether a module's name, or its end from a dot on, is that of the pattern."""
    return fnmatchcase(module, pattern) or fnmatchcase(module, f"*.{pattern}")
