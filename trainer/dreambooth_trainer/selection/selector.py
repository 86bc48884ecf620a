"""Evaluates the model during training, and chooses the best checkpoint. Collective."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping

from pydantic import JsonValue

from dreambooth_api.contract.message import BestCheckpoint
from dreambooth_api.contract.scores import Selection
from dreambooth_api.models.results.evaluation import Evaluation as Settings
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.resume.run_record import add_result
from dreambooth_trainer.selection.policy import (
    Evaluation,
    best_of,
    lost_fidelity,
    score_of,
    stop_step,
    weights_of,
    with_limit,
)
from dreambooth_trainer.selection.record import Record, RecordStore, settings_hash
from dreambooth_trainer.selection.schedule import is_due, next_step

log = logging.getLogger(__name__)


class CheckpointSelector:
    """The evaluations of a run, and what follows from them; the same on every rank.

    Args:
        attempt: The current one.
        settings: `spec.evaluation`.
        evaluate: Scores the model in its current state after a step. Collective; raises
            `StoppedError` on every rank when one was asked to stop.
        check_owner: Raises `FencedError` when a newer attempt owns the output. Collective.
    """

    def __init__(
        self,
        attempt: Attempt,
        settings: Settings,
        evaluate: Callable[[int], Evaluation],
        check_owner: Callable[[], None],
    ) -> None:
        self._attempt = attempt
        self._settings = settings
        self._select = with_limit(settings.select, attempt.job.spec.prior)
        self._evaluate = evaluate
        self._check_owner = check_owner
        self._store = RecordStore(attempt.storage, attempt.layout, settings_hash(attempt.job))
        records = attempt.ranks.run_on_first(self._store.read_all)
        self._records = {record.step: record for record in records}

    @property
    def last_step(self) -> int:
        """The step at which training ends: the job's last one, or that of early stopping."""
        steps = self._attempt.job.spec.training.steps
        return min(self._stop_step(steps) or steps, steps)

    def _stop_step(self, until: int) -> int | None:
        known = [each.evaluation for each in self._until(until)]
        return stop_step(known, self._select, self._settings.early_stopping)

    @property
    def stopped_early(self) -> str | None:
        """Why training ends before the job's last step; None: it does not."""
        early, steps = self._settings.early_stopping, self._attempt.job.spec.training.steps
        if early is None or self.last_step == steps:
            return None
        return (
            f"stopped early at step {self.last_step} of {steps}: the last {early.patience}"
            " evaluation(s) were not better (spec.evaluation.earlyStopping)"
        )

    def is_due(self, step: int) -> bool:
        """Whether the model is evaluated after `step`; the last step is not among them."""
        before = self._until(step - 1)
        earliest = max((record.next_step for record in before), default=0)
        return step < self._attempt.job.spec.training.steps and is_due(
            step, every=self._settings.every, earliest=earliest
        )

    def evaluate(self, step: int) -> None:
        """Score the model in its current state, unless that was recorded before. Collective.

        Raises:
            FencedError: A newer attempt owns the output; nothing is recorded.
            StoppedError: A rank was asked to stop; nothing is recorded.
        """
        ranks, telemetry = self._attempt.ranks, self._attempt.telemetry
        if step not in self._records:
            began = time.monotonic()
            found = self._evaluate(step)
            seconds = time.monotonic() - began
            self._check_owner()
            record = ranks.run_on_first(lambda: self._store.write(self._record(found, seconds)))
            self._records[step] = record
            telemetry.metrics.record_evaluation_seconds(record.seconds)
        record, best = self._records[step], self.best(until=step)
        assert best is not None
        telemetry.record_evaluation(
            step,
            record.scores,
            score=self._score(record.evaluation),
            best=BestCheckpoint(step=best.step, score=self._score(best)),
        )
        if self.chooses:
            ranks.run_on_first(lambda: self._write_choice(best.step, until=step))
        if reason := self.stopped_early:
            telemetry.progress.record_early_stop(reason)

    def best(
        self, available: Iterable[int] | None = None, *, until: int | None = None
    ) -> Evaluation | None:
        """The best evaluation; None: there is none.

        Args:
            available: Steps to choose from; None: all.
            until: The last step to choose from; None: the last of the training.
        """
        known = self._until(self.last_step if until is None else until)
        steps = {record.step for record in known} if available is None else set(available)
        return best_of(
            (record.evaluation for record in known if record.step in steps), self._select
        )

    def record_exported(self, step: int) -> None:
        """Report the evaluation whose model is exported as the best one.

        A better one may have no checkpoint: its save has failed, or it was of the run that this
        one goes on from (spec.resumeFrom).
        """
        record = self._records[step]
        self._attempt.telemetry.progress.record_evaluation(
            BestCheckpoint(step=step, score=self._score(record.evaluation)),
            record.scores.get("validationLoss"),
        )

    @property
    def chooses(self) -> bool:
        """Whether the best checkpoint is exported, and not the last one."""
        return self._settings.every is not None

    def result(self, exported: int) -> dict[str, JsonValue]:
        """What was exported and why, for run.json."""
        return {
            "exportedStep": exported,
            "lastStep": self.last_step,
            "stoppedEarly": self.stopped_early,
            **self._choice(exported, self.last_step),
        }

    def _write_choice(self, best: int, until: int) -> None:
        """Add to run.json which checkpoint is the best so far."""
        choice = {"bestStep": best, **self._choice(best, until)}
        add_result(self._attempt.storage, self._attempt.layout, choice)

    def _choice(self, step: int, until: int) -> dict[str, JsonValue]:
        """The score of a step, and the evaluations that it was chosen from."""
        known = sorted(self._until(until), key=lambda record: record.step)
        return {
            "score": self._score(self._records[step].evaluation),
            "weights": dict(weights_of(self._select)),
            "evaluations": [
                {
                    "step": record.step,
                    "score": self._score(record.evaluation),
                    "passedOver": self.has_lost_class(record.step),
                }
                for record in known
            ],
        }

    def scores_of(self, step: int) -> Mapping[str, float]:
        """The recorded scores of a step, by name."""
        return self._records[step].scores

    def selection(self, step: int) -> Selection:
        """What an evaluated step is compared by."""
        evaluation = self._records[step].evaluation
        limit = self._select.min_class_fidelity
        return Selection(score=self._score(evaluation), min_class_fidelity=limit)

    def is_best(self, step: int) -> bool:
        """Whether the best evaluation is that of a step."""
        best = self.best()
        return best is not None and best.step == step

    def has_lost_class(self, step: int) -> bool:
        """Whether the class fidelity of an evaluated step is below its limit."""
        return lost_fidelity(self._records[step].evaluation, self._select) > 0

    def choose(self, available: Iterable[int]) -> int | None:
        """The step of the best of these checkpoints; None: none of them was evaluated."""
        best = self.best(available)
        return best.step if best else None

    def _score(self, evaluation: Evaluation) -> float:
        return score_of(evaluation, self._select)

    def _until(self, step: int) -> list[Record]:
        # An attempt that was killed may have recorded later steps, which are yet to be trained.
        return [record for record in list(self._records.values()) if record.step <= step]

    def _record(self, found: Evaluation, seconds: float) -> Record:
        earliest = next_step(
            found.step,
            seconds=seconds,
            step_seconds=self._attempt.telemetry.progress.step_seconds,
            every=self._settings.every or 1,
            fraction=self._settings.max_time_fraction,
        )
        return Record(
            settings=self._store.settings,
            step=found.step,
            # JSON has no NaN; a score that is missing counts as one that is not finite.
            scores={name: v for name, v in found.scores.items() if math.isfinite(v)},
            class_fidelity=found.class_fidelity,
            seconds=seconds,
            next_step=earliest,
        )
