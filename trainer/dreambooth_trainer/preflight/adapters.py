"""Checks whether the model has what `spec.training.lora` names."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches

from torch import nn

from dreambooth_api.models.lora import Lora
from dreambooth_trainer.models.adapters.targets import adapted_modules, fits, named_modules
from dreambooth_trainer.models.model_config import ModelConfig
from dreambooth_trainer.resolved_job import ResolvedTraining

FIELD = "spec.training.lora"


def adapter_problems(config: ModelConfig, training: ResolvedTraining) -> Iterator[str]:
    """What is wrong with the adapters, one line for each field."""
    lora, family = training.lora, config.skeleton
    adapted: dict[str, nn.Module] = {}
    if training.method == "lora":
        denoiser = family.denoiser
        if unknown := [each for each in lora.targets or () if not named_modules(denoiser, (each,))]:
            yield (
                f"{FIELD}.targets: no module of the model's denoiser is named {', '.join(unknown)};"
                f" use {', '.join(config.defaults.lora_targets)}, or remove it"
            )
            return
        adapted |= adapted_modules(family, family.denoiser_part, lora)
        if lora.target_preset == "convolutions" and not any(map(_is_convolution, adapted.values())):
            yield (
                f"{FIELD}.targetPreset: {family.name} has no convolutions in its blocks; use linear"
            )
    if training.text_encoder.method == "lora":
        for part in family.text_encoders:
            adapted |= adapted_modules(family, part, lora)
    if adapted:
        yield from _unmatched(f"{FIELD}.rankPattern", lora.rank_pattern, adapted)
        yield from _unmatched(f"{FIELD}.alphaPattern", lora.alpha_pattern, adapted)
        yield from _useless_factor(lora, adapted)


def _is_convolution(module: nn.Module) -> bool:
    return isinstance(module, (nn.Conv1d, nn.Conv2d))


def _unmatched(
    field: str, patterns: Mapping[str, float], adapted: Mapping[str, nn.Module]
) -> Iterator[str]:
    """Patterns that fit no module with an adapter, with the names that are nearest to them."""
    for pattern in patterns:
        if not any(fits(pattern, name) for name in adapted):
            depth = pattern.count(".") + 1
            ends = {".".join(name.split(".")[-depth:]) for name in adapted}
            nearest = get_close_matches(pattern, sorted(ends), cutoff=0) or sorted(ends)[:3]
            yield (
                f"{field}: no module with an adapter is named {pattern}; did you mean"
                f" {' or '.join(nearest)}?"
            )


def _useless_factor(lora: Lora, adapted: Mapping[str, nn.Module]) -> Iterator[str]:
    if (factor := lora.decompose_factor) is None:
        return
    weights = [each for module in adapted.values() for each in module.parameters(recurse=False)]
    sizes = sorted({size for each in weights if each.ndim > 1 for size in each.shape[:2]})
    if not any(size % factor == 0 for size in sizes):
        divisors = [each for each in range(2, 65) if all(size % each == 0 for size in sizes)]
        choice = f"use {divisors[-1]}, or remove it" if divisors else "remove it"
        yield (
            f"{FIELD}.decomposeFactor: {factor} divides no size of the adapted weights"
            f" ({', '.join(map(str, sizes[:8]))}); {choice}"
        )
