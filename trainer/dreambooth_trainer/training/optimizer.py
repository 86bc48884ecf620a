"""The optimizers that a job can name."""

import contextlib
import io
from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import AdamW, Optimizer

from dreambooth_api.models.optimizer import OPTIMIZER_DEFAULTS, OptimizerName
from dreambooth_api.models.training import Training
from dreambooth_trainer.models.adapters.trainable import TrainableParameters

Groups = list[dict[str, Any]]


def make_optimizer(trained: TrainableParameters, training: Training) -> Optimizer:
    """The job's optimizer; the text encoders have their own learning rate.

    Returns:
        An optimizer with one or two parameter groups, the denoiser's first.
    """
    groups: Groups = [{"params": list(trained.denoiser.values()), "lr": training.learning_rate}]
    if trained.text:
        rate = training.text_encoder.learning_rate or training.learning_rate
        groups.append({"params": list(trained.text.values()), "lr": rate})
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


def _make_adamw(groups: Groups, arguments: Mapping[str, Any], training: Training) -> Optimizer:
    # With fp16, the fused kernel and the gradient scaler would both unscale the gradients:
    # Lightning refuses the pair.
    return AdamW(groups, fused=training.precision != "fp16", **arguments)


# Packages that one optimizer alone needs are imported by those who name it.


def _make_lion(groups: Groups, arguments: Mapping[str, Any], _: Training) -> Optimizer:
    from lion_pytorch import Lion

    optimizer: Optimizer = Lion(groups, **arguments)
    return optimizer


def _make_adafactor(groups: Groups, arguments: Mapping[str, Any], _: Training) -> Optimizer:
    from transformers.optimization import Adafactor

    # The job's learning rate as it is: scaled by the size of the weights, adapters, which begin at
    # 0, would hardly move.
    optimizer: Optimizer = Adafactor(
        groups, scale_parameter=False, relative_step=False, **arguments
    )
    return optimizer


def _make_prodigy(groups: Groups, arguments: Mapping[str, Any], _: Training) -> Optimizer:
    from prodigyopt import Prodigy

    with contextlib.redirect_stdout(io.StringIO()):  # it prints that weight decay is decoupled
        optimizer: Optimizer = Prodigy(
            groups, use_bias_correction=True, safeguard_warmup=True, **arguments
        )
    return optimizer


_MAKERS: Mapping[OptimizerName, Callable[[Groups, Mapping[str, Any], Training], Optimizer]] = {
    "adamw": _make_adamw,
    "adafactor": _make_adafactor,
    "lion": _make_lion,
    "prodigy": _make_prodigy,
}


def learning_rate(optimizer: Optimizer) -> float:
    """The denoiser's learning rate of the current step; between steps, of the next one."""
    group = optimizer.param_groups[0]
    return float(group["lr"]) * float(group.get("d", 1.0))  # d is what Prodigy has estimated
