"""Selects the parameters to train: all weights or LoRA adapters, of denoiser and text encoders."""

from dataclasses import dataclass, field

import torch
from torch import nn

from dreambooth_api.models.lora import Lora
from dreambooth_trainer.models.adapters.inject import add_adapters, add_loaded_adapters
from dreambooth_trainer.models.adapters.targets import adapted_modules
from dreambooth_trainer.models.family import Family
from dreambooth_trainer.models.tokens.learn import token_rows
from dreambooth_trainer.resolved_job import ResolvedTraining

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def weight_dtypes(
    family: type[Family], training: ResolvedTraining | None
) -> dict[str, torch.dtype]:
    """The precision that each part's weights are loaded and kept in, by its folder. Pure.

    Trained weights are fp32. Beside adapters or tokens, frozen ones have the precision of the
    forward pass, except the VAE's, whose images have visible bands in bf16. With `full`, the export
    holds the frozen weights too: they are not rounded, except language models, whose published
    weights are bf16. Nothing is rounded without training.
    """
    dtypes = dict.fromkeys(family.modules, torch.float32)
    if training is None:
        return dtypes
    frozen = PRECISIONS[training.precision]
    if not family.trains_text:
        dtypes |= dict.fromkeys(family.text_parts(), frozen)
    if training.method != "full":
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
    tokens: dict[str, nn.Parameter] = field(default_factory=dict)
    """Rows of the text encoders' embeddings."""

    @property
    def all(self) -> dict[str, nn.Parameter]:
        """All groups."""
        return {**self.denoiser, **self.text, **self.tokens}


def make_trainable(family: Family, training: ResolvedTraining) -> TrainableParameters:
    """Unfreeze the family's weights and words, or add LoRA adapters: see `spec.training`.

    Adapters (Hu et al. 2021, section 4.1) are fp32 whatever precision their base has. They begin as
    `family.start`, if there is one.
    """
    # Adapters start from the same random values on every rank and in every attempt.
    torch.manual_seed(training.seed)
    denoiser: dict[str, nn.Parameter] = {}
    if training.method != "textual-inversion":
        denoiser = _train(family, family.denoiser_part, training.method, training.lora, "denoiser")
    if training.gradient_checkpointing:
        family.denoiser.enable_gradient_checkpointing()  # type: ignore[operator]
    text: dict[str, nn.Parameter] = {}
    if training.text_encoder.method != "frozen":
        for name in family.text_encoders:
            text |= _train(family, name, training.text_encoder.method, training.lora, name)
    tokens = token_rows(family) if family.words else {}
    for rows in tokens.values():
        rows.requires_grad_(True)
    return TrainableParameters(denoiser, text, tokens)


def _train(
    family: Family, part: str, method: str, lora: Lora, prefix: str
) -> dict[str, nn.Parameter]:
    """Unfreeze a part, or its new adapters; the parameters by their names after a prefix."""
    module = family.parts[part]
    if method == "lora" and family.start is not None:
        add_loaded_adapters(module, lora, family.start.of_part(part))
    elif method == "lora":
        add_adapters(module, lora, list(adapted_modules(family, part, lora)))
    else:
        module.requires_grad_(True)
    # They would get no gradient, which DDP waits for and checkpoints of AdamW's moments expect.
    for each in family.unused_modules(part):  # now, as adapters have replaced the adapted modules
        each.requires_grad_(False)
    module.train()
    trained = {name: each for name, each in module.named_parameters() if each.requires_grad}
    for parameter in trained.values():
        if parameter.dtype != torch.float32:  # adapters are made in the precision of their base
            parameter.data = parameter.data.float()
    return {f"{prefix}.{name}": parameter for name, parameter in trained.items()}
