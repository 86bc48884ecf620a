"""Which checkpoint is the best, and when training ends early."""

import math

import pytest

from dreambooth_api.models.evaluation import EarlyStopping, ScoreWeight, Select
from dreambooth_trainer.selection.policy import Evaluation, best_of, score_of, stop_step


def at(step: int, subject: float, prompt: float = 1.0, **more: float) -> Evaluation:
    scores = {"subjectSimilarity": subject, "promptSimilarity": prompt}
    return Evaluation(step, scores, more.get("drift"), more.get("noise"))


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
    kept, lost = at(100, 0.5, drift=0.02, noise=0.01), at(200, 0.9, drift=0.06, noise=0.01)
    assert best_step(kept, lost) == 100
    assert best_step(kept, lost, select=Select(max_class_drift=0.1)) == 200
    # When all are lost, the least is.
    worse = at(300, 0.95, drift=0.2, noise=0.01)
    assert best_step(lost, worse) == 200


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_score_that_is_not_finite_never_wins(broken: float) -> None:
    assert best_step(at(100, broken), at(200, 0.1)) == 200


def stop(*subject: float, patience: int = 2, min_delta: float = 0.0) -> int | None:
    evaluations = [at(100 * (i + 1), value) for i, value in enumerate(subject)]
    early = EarlyStopping(patience=patience, min_delta=min_delta)
    return stop_step(evaluations[::-1], Select(), early)


def test_training_ends_after_as_many_evaluations_that_are_not_better() -> None:
    assert stop(0.1, 0.2, 0.15, 0.3, 0.25, 0.28, 0.9) == 600
    assert stop(0.1, 0.2, 0.15, 0.3, 0.25) is None
    assert stop(0.1, 0.105, 0.11, 0.2, min_delta=0.05) == 300
    assert stop_step([at(100, 0.2), at(200, 0.1)], Select(), None) is None


def test_what_exceeds_the_limit_of_the_class_drift_is_not_better() -> None:
    early = EarlyStopping(patience=2)
    lost = [at(100 * i, 0.1 * i, drift=0.01 * i, noise=0.002) for i in range(1, 6)]
    assert stop_step(lost, Select(), early) == 300
