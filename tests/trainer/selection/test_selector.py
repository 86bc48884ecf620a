"""What is recorded of evaluations: the same for each attempt, and true of what is exported."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from dreambooth_api.models.results.evaluation import Evaluation as Settings
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.signals import StopSignal
from dreambooth_trainer.process.topology import Topology
from dreambooth_trainer.resume.run_record import read_run_record, write_run_record
from dreambooth_trainer.selection.policy import Evaluation
from dreambooth_trainer.selection.selector import CheckpointSelector
from dreambooth_trainer.telemetry.telemetry import Telemetry
from tests.trainer.resolved import resolve


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    job = resolve(
        {
            "apiVersion": "dreambooth.dev/v1alpha1",
            "kind": "DreamBoothJob",
            "metadata": {"name": "mug", "uid": "run"},
            "spec": {
                "model": {"source": "s3://models/sd"},
                "subjects": [{"identifier": "sks", "classNoun": "mug", "images": "s3://b/mug"}],
                "output": f"file://{tmp_path}",
                "training": {"steps": 40},
            },
        }
    )
    ranks, telemetry = Ranks(Topology()), Telemetry(job, Topology())
    storage = Storage(StorageSettings())
    return Attempt(job, ranks, storage, telemetry, StopSignal(), torch.device("cpu"))


def selector(
    attempt: Attempt, scores: dict[int, dict[str, float]], **settings: Any
) -> CheckpointSelector:
    return CheckpointSelector(
        attempt,
        Settings.model_validate({"every": 10, **settings}),
        lambda step: Evaluation(step, scores[step], scores[step].get("classFidelity")),
        lambda: None,
    )


SIMILAR = {"subjectSimilarity": 0.8, "promptSimilarity": 0.3}


def test_the_next_attempt_knows_an_evaluation_whose_loss_was_not_finite(attempt: Attempt) -> None:
    scores = {10: {**SIMILAR, "validationLoss": math.nan}}
    first = selector(attempt, scores)
    first.evaluate(10)
    assert selector(attempt, {}).best() == first.best()
    assert first.best() is not None


def test_a_small_loss_with_a_large_weight_has_a_score_that_can_be_reported(
    attempt: Attempt,
) -> None:
    by_loss = {"scores": [{"name": "validationLoss", "weight": 10}]}
    chosen = selector(attempt, {10: {"validationLoss": 0.0}}, select=by_loss)
    chosen.evaluate(10)
    best = attempt.telemetry.progress.snapshot().best
    assert best is not None
    assert best.score == pytest.approx(1e60)


def test_what_is_exported_is_reported_as_the_best(attempt: Attempt) -> None:
    worse = {"subjectSimilarity": 0.5, "promptSimilarity": 0.3}
    chosen = selector(attempt, {10: SIMILAR, 20: worse})
    chosen.evaluate(10)
    chosen.evaluate(20)
    # There is no checkpoint of step 10.
    assert chosen.choose([20]) == 20
    chosen.record_exported(20)
    best = attempt.telemetry.progress.snapshot().best
    assert best is not None
    assert best.step == 20
    assert best.score == pytest.approx(0.15)


def test_a_model_that_has_lost_the_class_is_not_the_best(attempt: Attempt) -> None:
    kept = {"subjectSimilarity": 0.5, "promptSimilarity": 0.3, "classFidelity": 0.6}
    chosen = selector(attempt, {10: kept, 20: {**SIMILAR, "classFidelity": 0.1}})
    chosen.evaluate(10)
    chosen.evaluate(20)
    assert chosen.is_best(10)
    assert chosen.has_lost_class(20)
    result: dict[str, Any] = dict(chosen.result(10))
    assert [each["passedOver"] for each in result["evaluations"]] == [False, True]


def test_run_json_has_the_best_checkpoint_so_far(attempt: Attempt) -> None:
    about = {"world_size": 1, "global_batch": 4, "hashes": {}, "seeds": {}}
    write_run_record(attempt.storage, attempt.layout, attempt.job, attempt=0, **about)
    worse = {"subjectSimilarity": 0.5, "promptSimilarity": 0.3}
    chosen = selector(attempt, {10: SIMILAR, 20: worse})
    chosen.evaluate(10)
    chosen.evaluate(20)
    # The next attempt begins, and shows it too.
    write_run_record(attempt.storage, attempt.layout, attempt.job, attempt=1, **about)
    record = read_run_record(attempt.storage, attempt.layout)
    assert record is not None
    assert record["result"]["bestStep"] == 10
    assert [each["step"] for each in record["result"]["evaluations"]] == [10, 20]
    assert len(record["attempts"]) == 2
