"""The optimizer and the learning-rate schedule, both functions of the optimizer step alone."""

from collections.abc import Callable, Mapping

import torch
from diffusers.optimization import get_scheduler
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from dreambooth_api.models.training import Schedule, Training
from dreambooth_trainer.models.adapters import TrainableParameters

MOMENTS = ("exp_avg", "exp_avg_sq")
COUNT = "optimizer/step"
"""Name of the number of AdamW's updates: fewer than steps if fp16 has skipped some."""
SCALER = ("scale", "_growth_tracker")
"""The part of a gradient scaler's state that changes."""


def make_optimizer(trained: TrainableParameters, training: Training) -> AdamW:
    """AdamW (Loshchilov & Hutter 2019); the text encoders have their own learning rate.

    Returns:
        An optimizer with one or two parameter groups, the denoiser's first.
    """
    groups = [{"params": list(trained.denoiser.values()), "lr": training.learning_rate}]
    if trained.text:
        rate = training.text_encoder.learning_rate or training.learning_rate
        groups.append({"params": list(trained.text.values()), "lr": rate})
    settings = training.optimizer
    return AdamW(
        groups,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
        eps=settings.epsilon,
        # With fp16, the fused kernel and the gradient scaler would both unscale the gradients:
        # Lightning refuses the pair.
        fused=training.precision != "fp16",
    )


def make_schedule(optimizer: AdamW, training: Training, start: int) -> LambdaLR:
    """The learning rate from optimizer step `start` on.

    After `textEncoder.stopFraction` of the steps the text encoders' learning rate is zero.

    Returns:
        A schedule whose step 0 is `start`; it counts optimizer steps, on any number of ranks.
    """
    multiplier = _multiplier(training.schedule, training.steps)
    text_stop = text_stop_step(training)

    # LambdaLR begins at step 0. The shift resumes without replaying the steps before.
    def denoiser(step: int) -> float:
        return multiplier(start + step)

    def text(step: int) -> float:
        return multiplier(start + step) if start + step < text_stop else 0.0

    multipliers: list[Callable[[int], float]] = [denoiser, text]
    return LambdaLR(optimizer, multipliers[: len(optimizer.param_groups)])


def text_stop_step(training: Training) -> float:
    """The text encoders train in steps below this number, counted from 0."""
    return training.text_encoder.stop_fraction * training.steps


def _multiplier(schedule: Schedule, steps: int) -> Callable[[int], float]:
    """The multiplier of the learning rate by optimizer step, from 0.

    It is that of diffusers except in the warm-up, whose first step would have the rate 0 there.
    """
    # get_scheduler requires an optimizer, but only its lambda is used.
    unused = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    name = "constant_with_warmup" if schedule.name == "constant" else schedule.name
    scheduler = get_scheduler(
        name, unused, num_warmup_steps=schedule.warmup_steps, num_training_steps=steps
    )
    after_warmup: Callable[[int], float] = scheduler.lr_lambdas[0]
    warmup = schedule.warmup_steps
    return lambda step: (step + 1) / warmup if step < warmup else after_warmup(step)


def optimizer_tensors(optimizer: AdamW, trained: TrainableParameters) -> dict[str, Tensor]:
    """The optimizer's state by name: `exp_avg/<name>`, `exp_avg_sq/<name>` and `COUNT`.

    Empty before the first update.
    """
    # All parameters have the same count, so that one stands for all.
    counts = [state["step"] for state in optimizer.state.values()]
    moments = {
        f"{moment}/{name}": optimizer.state[parameter][moment]
        for name, parameter in trained.all.items()
        for moment in MOMENTS
        if parameter in optimizer.state
    }
    return {**moments, COUNT: counts[0].detach()} if counts else {}


def restore_optimizer(
    optimizer: AdamW, trained: TrainableParameters, tensors: Mapping[str, Tensor]
) -> None:
    """Load the result of `optimizer_tensors`; raises `KeyError` when a tensor is missing."""
    count = tensors[COUNT]
    for name, parameter in trained.all.items():
        # Always copied: on the CPU, a file that the state is mapped from would stay in use.
        device = parameter.device
        state = {m: tensors[f"{m}/{name}"].to(device, copy=True) for m in MOMENTS}
        # Fused AdamW keeps its step on the parameter's device, the others on the host.
        on_host = not optimizer.defaults["fused"]
        optimizer.state[parameter] = {
            "step": count.to("cpu" if on_host else device, copy=True),
            **state,
        }


def scaler_tensors(scaler: GradScaler | None) -> dict[str, Tensor]:
    """The state of fp16's gradient scaler, `scaler/<name>`; empty where there is none."""
    if scaler is None:
        return {}
    state = scaler.state_dict()
    # Tensors, as a state holds nothing else; float32 is exact for powers of 2 and small counts.
    return {f"scaler/{name}": torch.tensor(float(state[name])) for name in SCALER}


def restore_scaler(scaler: GradScaler | None, tensors: Mapping[str, Tensor]) -> None:
    """Load the result of `scaler_tensors`, if there is a scaler.

    A state of another precision (spec.resumeFrom) has none: the scaler then begins anew.
    """
    if scaler is None or f"scaler/{SCALER[0]}" not in tensors:
        return
    scale, tracker = (float(tensors[f"scaler/{name}"]) for name in SCALER)
    scaler.load_state_dict({**scaler.state_dict(), "scale": scale, "_growth_tracker": int(tracker)})
