"""When the model is evaluated during training. Pure.

Due are the multiples of `spec.evaluation.every`, but each evaluation pays for itself first: with
the seconds that it took, and those of a training step, it fixes the step before which no other one
takes place. That step is recorded with it, so that the plan does not depend on interruptions, on
how fast a later attempt is, or on its number of ranks.
"""

import math


def next_step(
    step: int, *, seconds: float, step_seconds: float | None, every: int, fraction: float
) -> int:
    """The earliest step of the next evaluation.

    Evaluations then take at most `fraction` of the time, each counted together with the training
    that follows it.

    Args:
        step: Of the evaluation that has ended.
        seconds: That it took.
        step_seconds: Of an optimizer step; None: unknown.
        every: spec.evaluation.every.
        fraction: spec.evaluation.maxTimeFraction.
    """
    if not step_seconds:
        return step + every
    needed = seconds * (1 - fraction) / (fraction * step_seconds)
    return step + every * max(1, math.ceil(needed / every))


def is_due(step: int, *, every: int | None, earliest: int) -> bool:
    """Whether the model is evaluated after `step`, where `earliest` is the last `next_step`."""
    return every is not None and step > 0 and step % every == 0 and step >= earliest
