"""The schedule of the learning rate, a function of the optimizer step alone."""

from collections.abc import Callable

import torch
from diffusers.optimization import get_scheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dreambooth_api.models.optimizer import SCHEDULE_DEFAULTS
from dreambooth_api.models.training import Training
from dreambooth_trainer.resolved_job import ResolvedSchedule, ResolvedTraining
from dreambooth_trainer.training.optimizer import PART


def make_schedule(optimizer: Optimizer, training: ResolvedTraining, start: int) -> LambdaLR:
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

    return LambdaLR(
        optimizer,
        [text if group[PART] == "text" else denoiser for group in optimizer.param_groups],
    )


def text_stop_step(training: Training) -> float:
    """The text encoders train in steps below this number, counted from 0."""
    return training.text_encoder.stop_fraction * training.steps


def _multiplier(schedule: ResolvedSchedule, steps: int) -> Callable[[int], float]:
    """The multiplier of the learning rate by optimizer step, from 0.

    It is that of diffusers except in the warm-up, whose first step would have the rate 0 there.
    """
    after_warmup = _stable_decay if schedule.name == "warmup-stable-decay" else _of_diffusers
    later = after_warmup(schedule, steps)
    warmup = schedule.warmup_steps
    return lambda step: (step + 1) / warmup if step < warmup else later(step)


def _stable_decay(schedule: ResolvedSchedule, steps: int) -> Callable[[int], float]:
    defaults = SCHEDULE_DEFAULTS[schedule.name]
    decay = steps * (schedule.decay_fraction or defaults["decayFraction"])
    return lambda step: min(1.0, (steps - step) / decay)


def _of_diffusers(schedule: ResolvedSchedule, steps: int) -> Callable[[int], float]:
    # get_scheduler requires an optimizer, but only its lambda is used.
    unused = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    name = "constant_with_warmup" if schedule.name == "constant" else schedule.name
    scheduler = get_scheduler(
        name.replace("-", "_"),
        unused,
        num_warmup_steps=schedule.warmup_steps,
        num_training_steps=steps,
        num_cycles=schedule.cycles or int(SCHEDULE_DEFAULTS["cosine-with-restarts"]["cycles"]),
    )
    multiplier: Callable[[int], float] = scheduler.lr_lambdas[0]
    return multiplier
