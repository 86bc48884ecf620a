"""Which checkpoint is the best, and when training ends early."""

import math

import pytest

from dreambooth_api.models.prior import Prior
from dreambooth_api.models.results.evaluation import EarlyStopping, ScoreWeight, Select
from dreambooth_trainer.selection.policy import (
    MIN_CLASS_FIDELITY,
    Evaluation,
    best_of,
    score_of,
    stop_step,
    with_limit,
)


def at(step: int, subject: float, prompt: float = 1.0, **more: float) -> Evaluation:
    scores = {"subjectSimilarity": subject, "promptSimilarity": prompt}
    return Evaluation(step, scores, more.get("fidelity"))


def best_step(*evaluations: Evaluation, select: Select | None = None) -> int | None:
    best = best_of(evaluations, select or Select())
    return best.step if best else None


def test_the_best_has_learned_the_subject_and_still_follows_prompts() -> None:
    assert best_step(at(100, 0.5, 0.3), at(200, 0.8, 0.28), at(300, 0.9, 0.1)) == 200
    assert best_step() is None


def test_of_equal_checkpoints_the_one_with_fewer_steps_is_the_best() -> None:
    assert best_step(at(300, 0.5), at(100, 0.5), at(200, 0.4)) == 100


def test_weights_decide_and_a_loss_counts_the_other_way_round() -> None:
    strict = Select(scores=[ScoreWeight(name="promptSimilarity", weight=2.0)])
    assert score_of(at(1, 0.9, 0.5), strict) == pytest.approx(0.25)
    by_loss = Select(scores=[ScoreWeight(name="validationLoss", weight=1.0)])
    losses = [Evaluation(s, {"validationLoss": loss}) for s, loss in ((1, 0.3), (2, 0.1), (3, 0.2))]
    assert best_step(*losses, select=by_loss) == 2


def test_a_checkpoint_whose_class_is_lost_is_passed_over() -> None:
    kept, lost = at(100, 0.5, fidelity=0.4), at(200, 0.9, fidelity=-0.1)
    limit = Select(min_class_fidelity=0.25)
    assert best_step(kept, lost, select=limit) == 100
    assert best_step(kept, lost, select=Select(min_class_fidelity=-0.5)) == 200
    # When all are lost, the one that has lost least is the best.
    worse = at(300, 0.95, fidelity=-0.5)
    assert best_step(lost, worse, select=limit) == 200


def test_the_default_limit_is_for_jobs_that_keep_the_class() -> None:
    assert with_limit(Select(), Prior()).min_class_fidelity == MIN_CLASS_FIDELITY
    assert with_limit(Select(min_class_fidelity=0), Prior()).min_class_fidelity == 0
    for prior in (Prior(enabled=False), Prior(weight=0)):
        assert with_limit(Select(), prior).min_class_fidelity is None
        assert with_limit(Select(min_class_fidelity=0.5), prior).min_class_fidelity == 0.5


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_score_that_is_not_finite_never_wins(broken: float) -> None:
    assert best_step(at(100, broken), at(200, 0.1)) == 200
    assert best_step(at(100, broken), at(200, -0.1)) == 200


def stop(*subject: float, patience: int = 2, min_delta: float = 0.0) -> int | None:
    evaluations = [at(100 * (i + 1), value) for i, value in enumerate(subject)]
    early = EarlyStopping(patience=patience, min_delta=min_delta)
    return stop_step(evaluations[::-1], Select(), early)


def test_training_ends_after_as_many_evaluations_that_are_not_better() -> None:
    assert stop(0.1, 0.2, 0.15, 0.3, 0.25, 0.28, 0.9) == 600
    assert stop(0.1, 0.2, 0.15, 0.3, 0.25) is None
    assert stop(0.1, 0.105, 0.11, 0.2, min_delta=0.05) == 300
    assert stop_step([at(100, 0.2), at(200, 0.1)], Select(), None) is None


def test_training_does_not_end_while_a_score_below_0_rises() -> None:
    assert stop(-0.3, -0.2, -0.1, 0.1, 0.2) is None
    assert stop(-0.1, -0.2, -0.2) == 300
    # The better prompts of a model that looks less like the subject do not count.
    assert best_step(at(100, -0.2, 0.9), at(200, -0.1, 0.5)) == 200


def stop_by_class(*fidelity: float, min_delta: float = 0.0) -> int | None:
    """With a subject that looks better each time."""
    evaluations = [at(100 * i, 0.1 * i, fidelity=each) for i, each in enumerate(fidelity, 1)]
    early = EarlyStopping(patience=2, min_delta=min_delta)
    return stop_step(evaluations, Select(min_class_fidelity=0.25), early)


def test_a_checkpoint_that_has_lost_more_of_the_class_is_not_better() -> None:
    assert stop_by_class(0.3, 0.2, 0.1, 0.0) == 300


def test_training_does_not_end_while_the_class_comes_back() -> None:
    assert stop_by_class(-0.5, -0.2, 0.1, 0.2, 0.3, 0.4) is None
    assert stop_by_class(-0.5, -0.5, -0.6, -0.6) == 400
    # Above the limit, the scores decide again.
    assert stop_by_class(0.1, 0.2, 0.3, 0.4, 0.5, min_delta=0.25) == 500
