"""Which checkpoint is the best, and whether training goes on. Pure.

Everything here is a function of the evaluations that are recorded, so that attempts that are killed
and resumed decide as an uninterrupted one does.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dreambooth_api.models.evaluation import EarlyStopping, Select
from dreambooth_api.models.prior import Prior

DEFAULT_WEIGHTS = {"subjectSimilarity": 1.0, "promptSimilarity": 1.0}
"""The subject is learned and prompts are still followed: either alone is easy."""
MIN_CLASS_FIDELITY = 0.4
"""The default limit of the class fidelity, with prior preservation (measured: docs/job.md)."""
SMALLEST_SCORE = 1e-6
"""Keeps a product of scores positive, and a loss from being divided by 0."""


@dataclass(frozen=True)
class Evaluation:
    """What is known of the model after an optimizer step.

    Args:
        step: Optimizer steps over all attempts.
        scores: By name, averaged over the subjects; `validationLoss` among them.
        class_fidelity: The smallest of any subject; None: unknown.
    """

    step: int
    scores: Mapping[str, float]
    class_fidelity: float | None = None


def with_limit(select: Select, prior: Prior) -> Select:
    """`select` with the default limit of the class fidelity, where the job keeps the class."""
    keeps = prior.enabled and prior.weight != 0
    if select.min_class_fidelity is not None or not keeps:
        return select
    return select.model_copy(update={"min_class_fidelity": MIN_CLASS_FIDELITY})


def weights_of(select: Select) -> Mapping[str, float]:
    """The exponent of each score in the product that a checkpoint is chosen by."""
    return {each.name: each.weight for each in select.scores} or DEFAULT_WEIGHTS


def score_of(evaluation: Evaluation, select: Select) -> float:
    """The score that a checkpoint is chosen by (spec.evaluation.select); larger is better.

    The product of the scores, each raised to its weight; the validation loss divides. 0 where a
    score is missing or not finite.
    """
    product = 1.0
    for name, weight in weights_of(select).items():
        value = evaluation.scores.get(name, math.nan)
        if not math.isfinite(value):
            return 0.0
        exponent = -weight if name == "validationLoss" else weight
        product *= max(value, SMALLEST_SCORE) ** exponent
    return product


def lost_fidelity(evaluation: Evaluation, select: Select) -> float:
    """How far the class fidelity is below its limit (spec.evaluation.select); 0: it is not."""
    fidelity, limit = evaluation.class_fidelity, select.min_class_fidelity
    if fidelity is None or limit is None:
        return 0.0
    return max(limit - fidelity, 0.0)


def best_of(evaluations: Iterable[Evaluation], select: Select) -> Evaluation | None:
    """The best evaluation; of equal ones, the earliest. None: there are none.

    Those below the limit of the class fidelity are passed over. If all are, the best is the one
    that is least below it.
    """
    ordered = sorted(evaluations, key=lambda each: each.step)
    # The first of equal ones is kept: fewer steps have changed the model less.
    return min(
        ordered,
        key=lambda each: (lost_fidelity(each, select), -score_of(each, select)),
        default=None,
    )


def stop_step(
    evaluations: Sequence[Evaluation], select: Select, early_stopping: EarlyStopping | None
) -> int | None:
    """The step at which training ends early; None: it goes on.

    Args:
        evaluations: In any order.
        select: How they are compared; those below the limit of the class fidelity are not better.
        early_stopping: After how many that are not better training ends; None: never.
    """
    if early_stopping is None:
        return None
    best, waited = -math.inf, 0
    for each in sorted(evaluations, key=lambda each: each.step):
        score = score_of(each, select)
        if lost_fidelity(each, select) == 0 and score > best + early_stopping.min_delta:
            best, waited = score, 0
        else:
            waited += 1
        if waited >= early_stopping.patience:
            return each.step
    return None
