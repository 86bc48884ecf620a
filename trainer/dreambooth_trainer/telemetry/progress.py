"""How far the attempt is: the state behind rank 0's answer to GET /progress."""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from dreambooth_api.contract.message import (
    MAX_SECONDS,
    BestCheckpoint,
    Checkpoint,
    HubPush,
    printable,
)
from dreambooth_api.contract.progress import (
    MAX_PROBLEM,
    MAX_SAMPLES,
    MAX_WARNING,
    MAX_WARNINGS,
    Images,
    Progress,
)
from dreambooth_api.contract.stages import Stage
from dreambooth_api.contract.times import now

SMOOTHING = 0.95
"""Decay per step of the averages behind throughput and ETA."""
MAX_WAIT_SHARE = 0.1
"""Part of the training time that may be spent waiting for saves; more is worth a warning."""
MIN_WAIT_SECONDS = 30.0
"""Total wait below which there is no warning: a short run has nothing to gain from it."""
LARGEST_LOSS = 1e9
"""Larger values are left out: `Progress` refuses them, and the job's status has no use for them."""


@dataclass
class Average:
    """Exponential moving average with Adam's bias correction (Kingma & Ba 2015, section 3)."""

    decay: float
    _sum: float = 0.0
    _weight: float = 0.0

    def add(self, value: float) -> None:
        """Add a value."""
        self._sum = self.decay * self._sum + (1 - self.decay) * value
        self._weight = self.decay * self._weight + (1 - self.decay)

    @property
    def value(self) -> float | None:
        """The average; None before the first value."""
        return self._sum / self._weight if self._weight else None


class ProgressState:
    """The newest `Progress`. Thread-safe: the training loop writes, the HTTP server reads."""

    def __init__(
        self,
        total_steps: int,
        *,
        attempt: int = 0,
        world_size: int = 1,
        output: str | None = None,
    ) -> None:
        self._progress = Progress(
            stage="Preparing",
            step=0,
            total_steps=total_steps,
            attempt=attempt,
            world_size=world_size,
            output=output,
            updated_at=now(),
        )
        self._step_seconds = Average(SMOOTHING)
        self._step_images = Average(SMOOTHING)
        self._total_step_seconds = self._total_wait_seconds = 0.0
        self._lock = threading.Lock()

    def _update(self, **changes: object) -> None:
        # A copy, as `snapshot` hands the object out to the server's threads.
        self._progress = self._progress.model_copy(update={**changes, "updated_at": now()})

    def enter_stage(self, stage: Stage) -> None:
        """The attempt enters `stage`."""
        with self._lock:
            self._update(stage=stage)

    def resume(self, step: int) -> None:
        """The attempt goes on from the checkpoint of `step`."""
        with self._lock:
            self._update(step=step, resumed_from=step)

    def record_step(self, step: int, *, images: int, seconds: float) -> None:
        """Optimizer step number `step` is done: `images` images over all ranks in `seconds`."""
        with self._lock:
            self._step_seconds.add(seconds)
            self._total_step_seconds += seconds
            self._step_images.add(images)
            self._update(
                step=step, images_per_second=self._images_per_second(), eta_seconds=self._eta(step)
            )

    def record_evaluation(self, best: BestCheckpoint, validation_loss: float | None) -> None:
        """The model was evaluated; `best` is the best checkpoint so far."""
        with self._lock:
            self._update(best=best, validation_loss=_reportable(validation_loss))

    def record_early_stop(self, reason: str) -> None:
        """Training ends before its last step."""
        with self._lock:
            self._update(stopped_early=printable(reason, MAX_WARNING))

    def record_losses(
        self, loss: float, subject: float, prior: float | None, learning_rate: float
    ) -> None:
        """Losses that have reached the host; a NaN or infinity is left out."""
        with self._lock:
            self._update(
                loss=_reportable(loss),
                subject_loss=_reportable(subject),
                prior_loss=_reportable(prior),
                learning_rate=_reportable(learning_rate),
            )

    def record_checkpoint(self, step: int, uri: str) -> None:
        """The checkpoint of `step` is durable in the folder `uri`."""
        with self._lock:
            checkpoint = Checkpoint(step=step, uri=uri, time=now())
            self._update(last_checkpoint=checkpoint, save_problem=None)

    def record_failed_save(self, problem: str) -> None:
        """A checkpoint could not be saved; training goes on."""
        with self._lock:
            failed = self._progress.failed_saves + 1
            self._update(failed_saves=failed, save_problem=printable(problem, MAX_PROBLEM))

    def record_save_wait(self, seconds: float, every: int) -> None:
        """Training waited `seconds` for a save before the next, `every` steps later, was due."""
        with self._lock:
            self._total_wait_seconds += seconds
            waited = self._total_wait_seconds
            limit = MAX_WAIT_SHARE * (waited + self._total_step_seconds)
            warning = (
                f"spec.checkpoints.every: saves take longer than {every} steps, and training spends"
                f" more than {MAX_WAIT_SHARE:.0%} of its time waiting for them; raise it"
            )
            is_slow = waited > max(MIN_WAIT_SECONDS, limit)
            self._update(save_warning=warning if is_slow else None)

    def record_checks(self, warnings: Sequence[str], notes: Sequence[str]) -> None:
        """The checks before training have found these; the first `MAX_WARNINGS` are kept."""
        with self._lock:
            self._update(
                warnings=[printable(each, MAX_WARNING) for each in warnings[:MAX_WARNINGS]],
                notes=[printable(each, MAX_WARNING) for each in notes[:MAX_WARNINGS]],
            )

    def record_answers(self, done: int, total: int) -> None:
        """The vision-language model has given `done` of `total` answers."""
        with self._lock:
            self._update(captioning=Images(done=done, total=total))

    def record_class_images(self, done: int, total: int) -> None:
        """`done` of `total` class images exist."""
        with self._lock:
            self._update(prior=Images(done=done, total=total))

    def record_protocol_images(self, done: int, total: int) -> None:
        """`done` of `total` images of base model and result exist."""
        with self._lock:
            self._update(protocol=Images(done=done, total=total))

    def record_generated_images(self, done: int, total: int) -> None:
        """`done` of `total` images that `dreambooth generate` asks for exist."""
        with self._lock:
            self._update(generated=Images(done=done, total=total))

    def record_samples(self, uri: str) -> None:
        """A grid of samples was written to `uri`."""
        with self._lock:
            self._update(samples=[*self._progress.samples, uri][-MAX_SAMPLES:])

    def record_push(self, push: HubPush) -> None:
        """The export was pushed to a hub, or could not be."""
        with self._lock:
            self._update(push=push)

    def record_export(self, uri: str) -> None:
        """The exported model is complete in the folder `uri`."""
        with self._lock:
            self._update(export=uri)

    @property
    def step_seconds(self) -> float | None:
        """Seconds of an optimizer step, smoothed; None before the first one of this attempt."""
        with self._lock:
            return self._step_seconds.value

    @property
    def images_per_second(self) -> float | None:
        """Images per second over all ranks, smoothed; None before the first step."""
        with self._lock:
            return self._progress.images_per_second

    def _images_per_second(self) -> float | None:
        # A ratio of averages: an average of ratios would give short steps too much weight.
        seconds, images = self._step_seconds.value, self._step_images.value
        return images / seconds if seconds and images is not None else None

    def _eta(self, step: int) -> float | None:
        """Seconds of training left, without the samples and checkpoints to come."""
        seconds = self._step_seconds.value
        if seconds is None:
            return None
        return min(seconds * max(self._progress.total_steps - step, 0), MAX_SECONDS)

    def snapshot(self) -> Progress:
        """The progress as it is now; later updates do not change it."""
        with self._lock:
            return self._progress


def _reportable(value: float | None) -> float | None:
    """The value where `Progress` can hold it: JSON has no NaN and no infinity."""
    within = value is not None and math.isfinite(value) and abs(value) <= LARGEST_LOSS
    return value if within else None
