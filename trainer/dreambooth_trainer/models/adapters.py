"""Selects the parameters to train: all weights or LoRA adapters, of denoiser and text encoders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from peft import LoraConfig
from torch import Tensor, nn

from dreambooth_api.models.training import Lora
from dreambooth_trainer.models.family import Family
from dreambooth_trainer.resolved_job import ResolvedTraining

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class TrainableParameters:
    """Trained fp32 parameters, by names that do not depend on ranks or wrappers (DDP)."""

    denoiser: dict[str, nn.Parameter]
    text: dict[str, nn.Parameter]
    unrounded: Mapping[str, Tensor] = field(default_factory=dict)
    """The denoiser's frozen weights before rounding, by its own names, in host memory, for adapters
    to be merged into. Empty where nothing is rounded or merged."""

    @property
    def all(self) -> dict[str, nn.Parameter]:
        """Both groups."""
        return {**self.denoiser, **self.text}


def make_trainable(
    family: Family, training: ResolvedTraining, *, keep_unrounded: bool = False
) -> TrainableParameters:
    """Unfreeze the family's weights, or add LoRA adapters, according to `spec.training`.

    Trained weights are fp32; a frozen denoiser has the precision of the forward pass, and
    `keep_unrounded` keeps a copy of its weights before rounding. Adapters: Hu et al. 2021,
    section 4.1.
    """
    # Adapters start from the same random values on every rank and in every attempt.
    torch.manual_seed(training.seed)
    denoiser = _train(
        family.denoiser, training.method, training.lora, training.lora.targets, "denoiser"
    )
    unrounded = {}
    if training.method == "lora" and training.precision != "fp32":
        # Autocast would convert these weights at each step, and keep fp32 beside them: 2 to 4 bytes
        # more per weight.
        for name, parameter in family.denoiser.named_parameters():
            if not parameter.requires_grad:
                if keep_unrounded:
                    unrounded[name] = parameter.detach().cpu()
                parameter.data = parameter.data.to(PRECISIONS[training.precision])
    if training.gradient_checkpointing:
        family.denoiser.enable_gradient_checkpointing()  # type: ignore[operator]
    text: dict[str, nn.Parameter] = {}
    if training.text_encoder.method != "frozen":
        for name, encoder in family.text_encoders.items():
            targets, unused = family.lora_text_targets, family.unused_modules(name)
            text |= _train(
                encoder, training.text_encoder.method, training.lora, targets, name, unused
            )
    return TrainableParameters(denoiser, text, unrounded)


def _train(
    module: nn.Module,
    method: str,
    lora: Lora,
    targets: Sequence[str],
    prefix: str,
    unused: Sequence[nn.Module] = (),
) -> dict[str, nn.Parameter]:
    if method == "lora":
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha or lora.rank,
            lora_dropout=lora.dropout,
            target_modules=list(targets),
            # A normal A and a zero B, as in diffusers' scripts: training starts at the base model.
            init_lora_weights="gaussian",
        )
        module.add_adapter(config)  # type: ignore[operator]
    else:
        module.requires_grad_(True)
    # They would get no gradient, which DDP waits for and checkpoints of AdamW's moments expect.
    for each in unused:
        each.requires_grad_(False)
    module.train()
    return {
        f"{prefix}.{name}": parameter
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }
