"""Which checkpoint is the best, and whether training goes on. Pure.

Everything here is a function of the evaluations that are recorded, so that attempts that are killed
and resumed decide as an uninterrupted one does.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dreambooth_api.models.prior import Prior
from dreambooth_api.models.results.evaluation import EarlyStopping, Select

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


def lacks(evaluation: Evaluation, select: Select) -> tuple[float, float]:
    """What a checkpoint lacks before its score counts; the less is better, and the first first.

    The class fidelity below its limit, and how far scores are below 0 together: a product says
    nothing of them. A score that is missing or not finite lacks infinitely much.
    """
    values = [evaluation.scores.get(name, math.nan) for name in weights_of(select)]
    below = sum(max(-value, 0.0) if math.isfinite(value) else math.inf for value in values)
    return lost_fidelity(evaluation, select), below


def best_of(evaluations: Iterable[Evaluation], select: Select) -> Evaluation | None:
    """The best evaluation; of equal ones, the earliest. None: there are none.

    Those below the limit of the class fidelity are passed over, and then those with a score below
    0. If all are, the best is the one that is least below it.
    """
    ordered = sorted(evaluations, key=lambda each: each.step)
    # The first of equal ones is kept: fewer steps have changed the model less.
    return min(
        ordered,
        key=lambda each: (lacks(each, select), -score_of(each, select)),
        default=None,
    )


def stop_step(
    evaluations: Sequence[Evaluation], select: Select, early_stopping: EarlyStopping | None
) -> int | None:
    """The step at which training ends early; None: it goes on.

    Args:
        evaluations: In any order.
        select: How they are compared, as for `best_of`: below the limit of the class fidelity, or
            with a score below 0, one is better when it is less below it. A class that comes back
            late is waited for, and so is a subject that is yet to be learned.
        early_stopping: After how many that are not better training ends; None: never.
    """
    if early_stopping is None:
        return None
    least, best, waited = (math.inf, math.inf), -math.inf, 0
    for each in sorted(evaluations, key=lambda each: each.step):
        lacking, score = lacks(each, select), score_of(each, select)
        is_higher = lacking == least and score > best + early_stopping.min_delta
        if lacking < least or is_higher:
            least, best, waited = lacking, score, 0
        else:
            waited += 1
        if waited >= early_stopping.patience:
            return each.step
    return None
