"""Selects the parameters to train: all weights or LoRA adapters, of denoiser and text encoders."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from peft import LoraConfig
from torch import Tensor, nn

from dreambooth_api.models.training import Lora
from dreambooth_trainer.models.family import Family
from dreambooth_trainer.resolved_job import ResolvedTraining

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def weight_dtypes(
    family: type[Family], training: ResolvedTraining | None
) -> dict[str, torch.dtype]:
    """The precision that each part's weights are loaded and kept in, by its folder. Pure.

    Trained weights are fp32. With LoRA, frozen ones have the precision of the forward pass, except
    the VAE's, whose images have visible bands in bf16. With `full`, the export holds the frozen
    weights too: they are not rounded, except language models, whose published weights are bf16.
    Nothing is rounded without training.
    """
    dtypes = dict.fromkeys(family.modules, torch.float32)
    if training is None:
        return dtypes
    frozen = PRECISIONS[training.precision]
    if not family.trains_text:
        dtypes |= dict.fromkeys(family.text_parts(), frozen)
    if training.method == "lora":
        # Autocast would convert these weights at each step, and keep fp32 beside them: 2 to 4 bytes
        # more per weight.
        dtypes[family.denoiser_part] = frozen
        if training.text_encoder.method == "frozen":
            dtypes |= dict.fromkeys(family.text_parts(), frozen)
    return dtypes


@dataclass(frozen=True)
class TrainableParameters:
    """Trained fp32 parameters, by names that do not depend on ranks or wrappers (DDP)."""

    denoiser: dict[str, nn.Parameter]
    text: dict[str, nn.Parameter]

    @property
    def all(self) -> dict[str, nn.Parameter]:
        """Both groups."""
        return {**self.denoiser, **self.text}


def make_trainable(family: Family, training: ResolvedTraining) -> TrainableParameters:
    """Unfreeze the family's weights, or add LoRA adapters, according to `spec.training`.

    Adapters (Hu et al. 2021, section 4.1) are fp32 whatever precision their base has.
    """
    # Adapters start from the same random values on every rank and in every attempt.
    torch.manual_seed(training.seed)
    denoiser = _train(
        family.denoiser,
        training.method,
        training.lora,
        training.lora.targets,
        "denoiser",
        partial(family.unused_modules, family.denoiser_part),
    )
    if training.gradient_checkpointing:
        family.denoiser.enable_gradient_checkpointing()  # type: ignore[operator]
    text: dict[str, nn.Parameter] = {}
    if training.text_encoder.method != "frozen":
        for name, encoder in family.text_encoders.items():
            text |= _train(
                encoder,
                training.text_encoder.method,
                training.lora,
                family.lora_text_targets,
                name,
                partial(family.unused_modules, name),
            )
    return TrainableParameters(denoiser, text)


def adapted_modules(module: nn.Module, targets: Sequence[str]) -> dict[str, nn.Module]:
    """The modules that get adapters: those with a matrix of weights whose names end in a target."""
    return {
        name: part
        for name, part in module.named_modules()
        if any(name == target or name.endswith(f".{target}") for target in targets)
        and isinstance(weight := getattr(part, "weight", None), Tensor)
        and weight.ndim > 1
    }


def _train(
    module: nn.Module,
    method: str,
    lora: Lora,
    targets: Sequence[str],
    prefix: str,
    find_unused: Callable[[], Sequence[nn.Module]],
) -> dict[str, nn.Parameter]:
    if method == "lora":
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha or lora.rank,
            lora_dropout=lora.dropout,
            target_modules=list(adapted_modules(module, targets)),
            # A normal A and a zero B, as in diffusers' scripts: training starts at the base model.
            init_lora_weights="gaussian",
        )
        module.add_adapter(config)  # type: ignore[operator]
    else:
        module.requires_grad_(True)
    # They would get no gradient, which DDP waits for and checkpoints of AdamW's moments expect.
    for each in find_unused():  # now, as adapters have replaced the modules that they adapt
        each.requires_grad_(False)
    module.train()
    trained = {name: each for name, each in module.named_parameters() if each.requires_grad}
    for parameter in trained.values():
        parameter.data = parameter.data.float()  # adapters are made in the precision of their base
    return {f"{prefix}.{name}": parameter for name, parameter in trained.items()}
