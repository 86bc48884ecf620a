"""The Prometheus metrics of one rank.

Names and units follow the Prometheus conventions: base units, `_total` on counters.
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics import MetricWrapperBase

from dreambooth_api.contract.metrics import TRAINER_PREFIX, Definition, MetricKind
from dreambooth_api.contract.stages import STAGES, Stage

M = TypeVar("M", bound=MetricWrapperBase)

# Bucket limits: from a small model's step to one with many micro-batches, from a full queue to a
# stalled one, and from a small object to a checkpoint.
_STEP_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_WAIT_SECONDS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
_TRANSFER_SECONDS = (0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0)
_EVALUATION_SECONDS = (1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
_MAX_CODES = 32
_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Metrics:
    """The metrics of one process, in a registry of its own; times in seconds, sizes in bytes.

    All methods are thread-safe and never block. Every series carries `labels` (a fixed set such as
    job, namespace, attempt, rank), so the number of ranks bounds the number of series.
    """

    def __init__(self, labels: Mapping[str, str]) -> None:
        self.registry = CollectorRegistry()
        self.definitions: list[Definition] = []
        self._labels = dict(labels)
        self._codes: set[str] = set()
        ProcessCollector(registry=self.registry)
        self._training()
        self._evaluation()
        self._durability()
        self._storage()
        self._memory()
        for metric in (
            self._images,
            self._step_seconds,
            self._data_wait,
            self._evaluation_seconds,
            self._checkpoint_bytes,
            self._checkpoint_seconds,
            self._checkpoint_wait,
            self._checkpoint_failures,
        ):
            # A counter without a value is not exposed, and PromQL's increase() does not count the
            # first event of a series that starts at 1.
            self._of(metric)

    def _training(self) -> None:
        self._loss = self._gauge(
            "loss", "Loss of the last logged step: subject plus weighted prior."
        )
        self._subject_loss = self._gauge("subject_loss", "Subject part of the loss.")
        self._prior_loss = self._gauge("prior_loss", "Prior part of the loss, before its weight.")
        self._learning_rate = self._gauge("learning_rate", "Learning rate of the last step.")
        self._step = self._gauge("step", "Optimizer steps done.")
        self._target_steps = self._gauge("target_steps", "Optimizer steps that the job asks for.")
        self._images = self._counter(
            "images", "Images trained on by this rank, prior images included."
        )
        self._images_per_second = self._gauge(
            "images_per_second", "Images per second over all ranks, smoothed."
        )
        self._step_seconds = self._histogram(
            "step_seconds", "Time of an optimizer step.", _STEP_SECONDS
        )
        self._data_wait = self._histogram(
            "data_wait_seconds", "Part of a step spent waiting for data.", _WAIT_SECONDS
        )
        self._stage = self._gauge("stage", "1 for the stage that the trainer is in.", "stage")
        self._score = self._gauge(
            "score",
            "Newest scores of the model, on rank 0 (spec.evaluation); `score` is the key in"
            " scores.json.",
            "subject",
            "score",
        )

    def _evaluation(self) -> None:
        self._evaluation_seconds = self._histogram(
            "evaluation_seconds", "Time of an evaluation during training.", _EVALUATION_SECONDS
        )
        self._selection_score = self._gauge(
            "selection_score",
            "Score of the newest evaluation that the best checkpoint is chosen by.",
        )
        self._best_step = self._gauge("best_step", "Step of the best checkpoint.")
        self._best_score = self._gauge("best_score", "Score of the best checkpoint.")
        self._validation_loss = self._gauge(
            "validation_loss", "Loss on held-out images, of the newest evaluation."
        )

    def _durability(self) -> None:
        self._checkpoint_bytes = self._counter(
            "checkpoint_bytes", "Bytes written to checkpoints by this rank."
        )
        self._checkpoint_seconds = self._histogram(
            "checkpoint_seconds",
            "Time from the copy of a state until it is durable.",
            _TRANSFER_SECONDS,
        )
        self._checkpoint_wait = self._histogram(
            "checkpoint_wait_seconds",
            "Time after a step in which training waits for checkpoints: to copy the state, and for"
            " a save that is slower than the steps between two.",
            _TRANSFER_SECONDS,
        )
        self._checkpoint_failures = self._counter(
            "checkpoint_failures", "Saves that failed; each is tried again, or a newer one is."
        )
        self._checkpoint_step = self._gauge(
            "checkpoint_last_step", "Step of the newest durable checkpoint."
        )
        self._checkpoint_time = self._gauge(
            "checkpoint_last_timestamp_seconds", "Unix time of the newest durable checkpoint."
        )
        self._unsaved = self._gauge(
            "unsaved_since_timestamp_seconds",
            "Unix time since which nothing is saved: of the newest checkpoint of this attempt, or"
            " of the start of its training.",
        )

    def _storage(self) -> None:
        self._storage_bytes = self._counter(
            "s3_bytes", "Bytes transferred to and from storage.", "operation"
        )
        self._storage_seconds = self._histogram(
            "s3_request_seconds", "Time of a storage operation.", _TRANSFER_SECONDS, "operation"
        )
        self._storage_errors = self._counter(
            "s3_errors", "Storage operations that failed.", "operation", "code"
        )

    def _memory(self) -> None:
        self._memory_used = self._gauge(
            "gpu_memory_allocated_bytes", "GPU memory in use by tensors."
        )
        self._memory_peak = self._gauge(
            "gpu_memory_peak_bytes", "Largest GPU memory in use so far."
        )

    def _gauge(self, name: str, text: str, *extra: str) -> Gauge:
        return Gauge(*self._defined(name, "gauge", text, extra), registry=self.registry)

    def _counter(self, name: str, text: str, *extra: str) -> Counter:
        named, text, labels = self._defined(f"{name}_total", "counter", text, extra)
        return Counter(named, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Iterable[float], *extra: str) -> Histogram:
        named, text, labels = self._defined(name, "histogram", text, extra)
        return Histogram(named, text, labels, registry=self.registry, buckets=tuple(buckets))

    def _defined(
        self, name: str, kind: MetricKind, text: str, extra: tuple[str, ...]
    ) -> tuple[str, str, tuple[str, ...]]:
        """Add the definition of a metric; return its full name, text and labels."""
        definition = Definition(f"{TRAINER_PREFIX}_{name}", kind, (*self._labels, *extra), text)
        self.definitions.append(definition)
        return definition.name, definition.meaning, definition.labels

    def _of(self, metric: M, **extra: str) -> M:
        return metric.labels(**self._labels, **extra)

    def enter_stage(self, stage: Stage) -> None:
        """The trainer enters `stage`."""
        # One series per stage, as in an OpenMetrics StateSet: a label cannot change its value.
        for name in STAGES:
            self._of(self._stage, stage=name).set(name == stage)

    def start_training(self, step: int, target_steps: int) -> None:
        """Training starts after `step` optimizer steps, and ends after `target_steps`."""
        self._of(self._step).set(step)
        self._of(self._target_steps).set(target_steps)
        self._of(self._unsaved).set_to_current_time()

    def record_step(
        self, step: int, *, images: int, seconds: float, data_wait_seconds: float
    ) -> None:
        """Optimizer step number `step` is done.

        Args:
            step: From 1, over all attempts.
            images: Subject and class images of this rank.
            seconds: Time of the whole step.
            data_wait_seconds: Part of `seconds` spent waiting for data.
        """
        self._of(self._step).set(step)
        self._of(self._images).inc(images)
        self._of(self._step_seconds).observe(seconds)
        self._of(self._data_wait).observe(data_wait_seconds)

    def record_score(self, subject: str, score: str, value: float) -> None:
        """The newest value of a score of a subject."""
        self._of(self._score, subject=subject, score=score).set(value)

    def record_evaluation_seconds(self, seconds: float) -> None:
        """An evaluation during training took `seconds`."""
        self._of(self._evaluation_seconds).observe(seconds)

    def record_evaluation(self, score: float, *, best_step: int, best_score: float) -> None:
        """The model was evaluated; `score` is the one that checkpoints are chosen by."""
        self._of(self._selection_score).set(score)
        self._of(self._best_step).set(best_step)
        self._of(self._best_score).set(best_score)

    def record_validation_loss(self, loss: float) -> None:
        """The loss on held-out images."""
        self._of(self._validation_loss).set(loss)

    def record_losses(
        self, loss: float, subject: float, prior: float | None, learning_rate: float
    ) -> None:
        """Losses that have reached the host; `prior` is before its weight, None without one."""
        self._of(self._loss).set(loss)
        self._of(self._subject_loss).set(subject)
        if prior is not None:
            self._of(self._prior_loss).set(prior)
        self._of(self._learning_rate).set(learning_rate)

    def record_throughput(self, rate: float) -> None:
        """Images per second over all ranks, smoothed."""
        self._of(self._images_per_second).set(rate)

    def record_checkpoint(self, step: int, *, size: int, seconds: float) -> None:
        """A checkpoint is durable after `seconds`; this rank wrote `size` bytes of it."""
        self._of(self._checkpoint_bytes).inc(size)
        self._of(self._checkpoint_seconds).observe(seconds)
        self._of(self._checkpoint_step).set(step)
        now = time.time()
        self._of(self._checkpoint_time).set(now)
        self._of(self._unsaved).set(now)

    def record_checkpoint_wait(self, seconds: float) -> None:
        """After a step, training waited `seconds` for checkpoints."""
        self._of(self._checkpoint_wait).observe(seconds)

    def record_failed_save(self) -> None:
        """A checkpoint could not be saved."""
        self._of(self._checkpoint_failures).inc()

    def watch_gpu_memory(self, used: Callable[[], int], peak: Callable[[], int]) -> None:
        """Read GPU memory, in bytes, from these functions.

        They are called at each scrape, so that the training loop never has to.
        """
        self._of(self._memory_used).set_function(used)
        self._of(self._memory_peak).set_function(peak)

    def transferred(self, operation: str, size: int, seconds: float) -> None:
        """`size` bytes went through storage."""
        self._of(self._storage_bytes, operation=operation).inc(size)
        self._of(self._storage_seconds, operation=operation).observe(seconds)

    def failed(self, operation: str, error_code: str) -> None:
        """A request of a storage operation failed, whether it is retried or not."""
        self._of(self._storage_errors, operation=operation, code=self._bounded(error_code)).inc()

    def _bounded(self, code: str) -> str:
        """The label of an error code; after `_MAX_CODES` different ones, "other".

        Servers choose their codes, and must not be able to create any number of series.
        """
        # Two threads may add a code at once; the limit is then exceeded by one, which is harmless.
        if code not in self._codes and (
            len(self._codes) >= _MAX_CODES or not _CODE.fullmatch(code)
        ):
            return "other"
        self._codes.add(code)
        return code

    def render(self) -> bytes:
        """All series in the Prometheus text format."""
        return generate_latest(self.registry)
