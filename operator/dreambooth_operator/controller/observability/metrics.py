"""The operator's metrics: those it counts, and those it computes at each scrape."""

from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dreambooth_api.contract.metrics import Definition
from dreambooth_api.contract.stages import Phase
from dreambooth_api.models.status import AttemptStatus, Status
from dreambooth_operator.controller.decide.state.decision import Decision
from dreambooth_operator.controller.decide.state.observed import Observed, Reading
from dreambooth_operator.controller.kube.kinds import Kind
from dreambooth_operator.controller.observability import definitions as d
from dreambooth_operator.controller.observability import job_metrics
from dreambooth_operator.controller.observability.job_metrics import MeasuredJob

MINUTES_TO_A_DAY = (
    *(1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400),
)  # fmt: skip
"""Histogram buckets in seconds of what takes between a second and a day."""


@dataclass(frozen=True)
class Measurements:
    """The values that are computed at a scrape. Ages are in seconds."""

    jobs: Sequence[MeasuredJob]
    queue_depth: int
    queue_oldest_age: float
    watch_ages: Mapping[str, float]
    """Time since each watch was last known to work, by plural of its kind."""
    answer_age: float
    """Time since the API server's last response."""
    namespaces_failing: int = 0


class Metrics:
    """All metrics, with a method for each event that they count. Durations are in seconds."""

    def __init__(self) -> None:
        # Not the global registry, in which libraries register metrics of their own.
        self.registry = CollectorRegistry()
        self._requests = self._counter(d.API_REQUESTS)
        self._errors = self._counter(d.RECONCILE_ERRORS)
        self._restarts = self._counter(d.RESTARTS)
        self._repairs = self._counter(d.RESYNC_REPAIRS)
        self._skipped = self._counter(d.OBJECTS_SKIPPED)
        self._progress_failures = self._counter(d.PROGRESS_FAILURES)
        self._reconciled = self._histogram(d.RECONCILE_SECONDS, Histogram.DEFAULT_BUCKETS)
        self._queued = self._histogram(d.QUEUE_SECONDS, MINUTES_TO_A_DAY)
        self._starting = self._histogram(d.START_SECONDS, MINUTES_TO_A_DAY)
        self._running = self._histogram(d.RUN_SECONDS, MINUTES_TO_A_DAY)
        self._leader = Gauge(d.LEADER.name, d.LEADER.meaning, registry=self.registry)

    def measure_with(self, measure: Callable[[], Measurements | None]) -> None:
        """Call `measure` at each scrape; its series are left out where it returns None."""
        self.registry.register(_Measured(measure))

    def api_responded(self, verb: str, resource: str, code: int) -> None:
        """The API server responded to a request with this HTTP status."""
        self._requests.labels(verb, resource, str(code)).inc()

    def reconciled(self, seconds: float) -> None:
        """A job was reconciled, successfully or not, in so many seconds."""
        self._reconciled.observe(seconds)

    def failed(self, kind: str) -> None:
        """A reconciliation failed and will be retried; `kind` is that of the `ApiError`."""
        self._errors.labels(kind).inc()

    def progress_polled(self, reading: Reading) -> None:
        """A poll of rank 0's progress has ended, with or without an answer."""
        if reading.progress is None:
            self._progress_failures.inc()

    def repaired(self, kind: Kind, changes: int) -> None:
        """A resync found changes that the watch of a kind had missed."""
        self._repairs.labels(kind.plural).inc(changes)

    def skipped(self, kind: Kind) -> None:
        """An object of a kind could not be read, and was passed over."""
        self._skipped.labels(kind.plural).inc()

    def set_leader(self, leads: bool) -> None:
        """Set whether this process leads."""
        self._leader.set(leads)

    def changed(self, observed: Observed, decision: Decision) -> None:
        """A decision changed a status: measure the part of an attempt's life that it ended.

        Durations are in seconds, by the times in the status, and observed once for each attempt.
        """
        new = decision.status
        if new is None or not new.attempts:
            return
        after = new.attempts[-1]
        before = _attempt(observed.job.status, after.number)
        # The first attempt is no restart, nor is one whose predecessor the status does not hold.
        if before is None and after.number > 0 and len(new.attempts) > 1:
            self._restarts.labels(new.attempts[-2].outcome or "unknown").inc()
        if after.running and not (before and before.running):
            self._observe_start(observed, after)
        if after.ended and after.running and not (before and before.ended):
            self._running.observe(_seconds(after.ended, after.running))

    def _observe_start(self, observed: Observed, attempt: AttemptStatus) -> None:
        job = next((job for job in observed.attempts if job.attempt == attempt.number), None)
        if job and attempt.running:
            # The watch of Jobs may lag behind that of pods: a Job whose startTime is not cached yet
            # was in no queue, as one that a queue resumed gets it together with its condition.
            self._queued.observe(_seconds(job.active_since, job.created))
            self._starting.observe(_seconds(attempt.running, job.active_since))

    def _counter(self, definition: Definition) -> Counter:
        return Counter(
            definition.name.removesuffix("_total"),
            definition.meaning,
            definition.labels,
            registry=self.registry,
        )

    def _histogram(self, definition: Definition, buckets: Sequence[float]) -> Histogram:
        return Histogram(
            definition.name, definition.meaning, buckets=buckets, registry=self.registry
        )


class _Measured(Collector):
    def __init__(self, measure: Callable[[], Measurements | None]) -> None:
        self._measure = measure

    def describe(self) -> Iterator[Metric]:
        """Nothing, so that registering this does not measure."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        measured = self._measure()
        if measured is None:
            return
        phases = Tally(job.summary.phase for job in measured.jobs)
        # Every phase, 0 included: a series that disappears cannot be alerted on.
        yield _labelled_gauge(d.JOBS, {phase: phases[phase] for phase in get_args(Phase)})
        yield _gauge(d.QUEUE_DEPTH, measured.queue_depth)
        yield _gauge(d.QUEUE_OLDEST_SECONDS, measured.queue_oldest_age)
        yield _labelled_gauge(d.WATCH_AGE_SECONDS, measured.watch_ages)
        yield _gauge(d.API_ANSWER_AGE_SECONDS, measured.answer_age)
        yield _gauge(d.NAMESPACES_FAILING, measured.namespaces_failing)
        yield from job_metrics.collect(measured.jobs)


def _gauge(definition: Definition, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(definition.name, definition.meaning, value=value)


def _labelled_gauge(definition: Definition, values: Mapping[str, float]) -> GaugeMetricFamily:
    """A gauge with one label; `values` are by the label's value."""
    family = GaugeMetricFamily(definition.name, definition.meaning, labels=definition.labels)
    for label, value in values.items():
        family.add_metric([label], value)
    return family


def _attempt(status: Status | None, number: int) -> AttemptStatus | None:
    attempts = status.attempts if status else []
    return next((attempt for attempt in attempts if attempt.number == number), None)


def _seconds(later: datetime, earlier: datetime) -> float:
    return max((later - earlier).total_seconds(), 0.0)
