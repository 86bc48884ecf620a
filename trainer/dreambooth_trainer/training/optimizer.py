"""The optimizers that a job can name."""

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from dreambooth_api.models.optimizer import OPTIMIZER_DEFAULTS, OptimizerName
from dreambooth_api.models.training import Training
from dreambooth_trainer.models.adapters.trainable import TrainableParameters
from dreambooth_trainer.training.muon import MuonWithAdamW

Groups = list[dict[str, Any]]
PART = "part"
"""Key of a group of parameters: `denoiser`, `text` for the text encoders, or `tokens`."""
TOKEN_LEARNING_RATE = 1e-3
"""The default of `tokenLearningRate`."""


def check_optimizer(training: Training) -> Iterator[str]:
    """A message where the installed PyTorch does not have the job's optimizer."""
    if training.optimizer.name == "muon" and not hasattr(torch.optim, "Muon"):
        yield (
            "spec.training.optimizer.name: muon needs PyTorch 2.9 or newer, and this is"
            f" {torch.__version__}; choose another optimizer, or an image with a newer PyTorch"
        )


def make_optimizer(trained: TrainableParameters, training: Training) -> Optimizer:
    """The job's optimizer; text encoders and tokens have their own learning rates.

    Returns:
        An optimizer with groups of parameters, the denoiser's first, where it is trained; `PART`
        says whose a group is.
    """
    groups = []
    if trained.denoiser:
        groups.append(_group("denoiser", trained.denoiser, training.learning_rate))
    if trained.text:
        rate = training.text_encoder.learning_rate or training.learning_rate
        groups.append(_group("text", trained.text, rate))
    if trained.tokens:
        groups.append(_group("tokens", trained.tokens, _rate_of_tokens(training)))
    settings = training.optimizer
    taken = settings.model_dump(by_alias=False, exclude_none=True)
    numbers = {**OPTIMIZER_DEFAULTS[settings.name], **taken}
    arguments: dict[str, Any] = {
        "lr": training.learning_rate,
        "weight_decay": settings.weight_decay,
    }
    if "beta1" in numbers:
        arguments["betas"] = (numbers["beta1"], numbers["beta2"])
    if "epsilon" in numbers:
        arguments["eps"] = numbers["epsilon"]
    return _MAKERS[settings.name](groups, arguments, training)


def _rate_of_tokens(training: Training) -> float:
    if training.optimizer.name == "prodigy":
        return training.learning_rate
    return training.token_learning_rate or TOKEN_LEARNING_RATE


def _group(part: str, parameters: Mapping[str, nn.Parameter], rate: float) -> dict[str, Any]:
    return {"params": list(parameters.items()), "lr": rate, PART: part}


def _make_adamw(groups: Groups, arguments: Mapping[str, Any], training: Training) -> Optimizer:
    # With fp16, the fused kernel and the gradient scaler would both unscale the gradients:
    # Lightning refuses the pair.
    return AdamW(groups, fused=training.precision != "fp16", **arguments)


# Packages that one optimizer alone needs are imported by those who name it.


def _make_lion(groups: Groups, arguments: Mapping[str, Any], _: Training) -> Optimizer:
    from lion_pytorch import Lion

    optimizer: Optimizer = Lion(groups, **arguments)
    return optimizer


def _make_adamw_8bit(groups: Groups, arguments: Mapping[str, Any], _: Training) -> Optimizer:
    from bitsandbytes.optim import AdamW8bit

    optimizer: Optimizer = AdamW8bit(groups, **arguments)
    return optimizer


def _make_paged_adamw_8bit(groups: Groups, arguments: Mapping[str, Any], __: Training) -> Optimizer:
    from bitsandbytes.optim import AdamW8bit, PagedAdamW8bit

    (_, parameter), *_ = groups[0]["params"]
    make = PagedAdamW8bit if parameter.is_cuda else AdamW8bit  # the host has nowhere to page to
    optimizer: Optimizer = make(groups, **arguments)
    return optimizer


def _make_schedule_free(groups: Groups, arguments: Mapping[str, Any], _: Training) -> Optimizer:
    from schedulefree import AdamWScheduleFree

    averaging = AdamWScheduleFree(groups, **arguments)
    averaging.train()  # for good: see `schedule_free`, which averages
    optimizer: Optimizer = averaging
    return optimizer


def _make_muon(groups: Groups, arguments: Mapping[str, Any], training: Training) -> Optimizer:
    return MuonWithAdamW(groups, fused=training.precision != "fp16", **arguments)


def _make_adafactor(groups: Groups, arguments: Mapping[str, Any], _: Training) -> Optimizer:
    from transformers.optimization import Adafactor

    # The job's learning rate as it is: scaled by the size of the weights, adapters, which begin at
    # 0, would hardly move.
    optimizer: Optimizer = Adafactor(
        groups, scale_parameter=False, relative_step=False, **arguments
    )
    return optimizer


def _make_prodigy(groups: Groups, arguments: Mapping[str, Any], _: Training) -> Optimizer:
    from dreambooth_trainer.training.prodigy import Prodigy

    with contextlib.redirect_stdout(io.StringIO()):  # it prints that weight decay is decoupled
        optimizer: Optimizer = Prodigy(
            groups, use_bias_correction=True, safeguard_warmup=True, **arguments
        )
    return optimizer


_MAKERS: Mapping[OptimizerName, Callable[[Groups, Mapping[str, Any], Training], Optimizer]] = {
    "adamw": _make_adamw,
    "adamw-8bit": _make_adamw_8bit,
    "paged-adamw-8bit": _make_paged_adamw_8bit,
    "adafactor": _make_adafactor,
    "lion": _make_lion,
    "prodigy": _make_prodigy,
    "schedule-free-adamw": _make_schedule_free,
    "muon": _make_muon,
}


def learning_rates(optimizer: Optimizer) -> list[float]:
    """The rates of the current step by part, the denoiser's first; between steps, of the next."""
    rates: dict[str, float] = {}
    for group in optimizer.param_groups:  # Muon has two for a part
        # d is what Prodigy has estimated.
        rates[group[PART]] = float(group["lr"]) * float(group.get("d", 1.0))
    return [*rates.values()]
