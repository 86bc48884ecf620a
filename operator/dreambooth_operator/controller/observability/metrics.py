"""The operator's own metrics: how it does, and how long attempts take. Labels are bounded: what is
counted here for good names no job, no node and no namespace. What is said of single jobs, and only
for as long as they exist, is in `job_metrics`.
"""

from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dreambooth_api.contract.metrics import Definition, MetricKind
from dreambooth_api.contract.stages import Phase
from dreambooth_api.models.status import AttemptStatus, Status
from dreambooth_operator.controller.decide.decision import Decision
from dreambooth_operator.controller.decide.observed import Observed, Reading
from dreambooth_operator.controller.kube.kinds import Kind
from dreambooth_operator.controller.kube.snapshots import Key
from dreambooth_operator.controller.observability import job_metrics
from dreambooth_operator.controller.observability.job_metrics import MeasuredJob

PREFIX = "dreambooth_operator"
MINUTES = (1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400)
"""Buckets of what takes seconds to a day."""


@dataclass(frozen=True)
class Measurements:
    """What is measured when somebody asks."""

    jobs: Sequence[MeasuredJob]
    queue_depth: int
    queue_oldest_seconds: float
    watch_seconds: Mapping[str, float]
    """Seconds since each watch was last known to work, by plural."""
    answer_seconds: float
    """Seconds since the API server answered last."""


class Metrics:
    """All metrics, and where the parts of the operator report to."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.definitions = [*GAUGES, *job_metrics.DEFINITIONS]
        self._requests = self._counter(
            "api_requests", "Answers of the API server.", "verb", "resource", "code"
        )
        self._errors = self._counter("reconcile_errors", "Jobs that were tried again.", "kind")
        self._restarts = self._counter("restarts", "Attempts after the first, by why.", "reason")
        self._repairs = self._counter("resync_repairs", "Changes that a watch missed.", "resource")
        self._unread = self._counter("progress_failures", "Rank 0 did not answer.")
        self._reconciled = self._histogram("reconcile_seconds", "Time to look at one job.")
        self._queued = self._durations("queue_seconds", "From an attempt's Job to its start.")
        self._starting = self._durations("start_seconds", "From its start to all ranks joined.")
        self._running = self._durations("run_seconds", "From all ranks joined to its end.")
        self._leads = self._gauge("leader", "1 in the process that acts, 0 in one that stands by.")

    def show(self, snapshot: Callable[[], Measurements | None]) -> None:
        """Have gauges read from a snapshot; None: nothing is known at the moment."""
        self.registry.register(_Gauges(snapshot))

    def answered(self, verb: str, resource: str, code: int) -> None:
        """The API server answered."""
        self._requests.labels(verb, resource, str(code)).inc()

    def reconciled(self, seconds: float) -> None:
        """A job was looked at."""
        self._reconciled.observe(seconds)

    def failed(self, kind: str) -> None:
        """A job has to be tried again."""
        self._errors.labels(kind).inc()

    def heard(self, _: Key, reading: Reading) -> None:
        """Rank 0 was asked."""
        if reading.progress is None:
            self._unread.inc()

    def repaired(self, kind: Kind, changes: int) -> None:
        """A resync found what a watch had missed."""
        self._repairs.labels(kind.plural).inc(changes)

    def leads(self, yes: bool) -> None:
        """Whether this process acts."""
        self._leads.set(yes)

    def changed(self, seen: Observed, decision: Decision) -> None:
        """A decision was carried out: what of an attempt's life it ended is measured."""
        new = decision.status
        if new is None or not new.attempts:
            return
        after = new.attempts[-1]
        before = _record(seen.job.status, after.number)
        if before is None and after.number > 0 and len(new.attempts) > 1:
            self._restarts.labels(new.attempts[-2].outcome or "unknown").inc()
        if after.running and not (before and before.running):
            self._joined(seen, after)
        if after.ended and after.running and not (before and before.ended):
            self._running.observe(_seconds(after.ended, after.running))

    def _joined(self, seen: Observed, record: AttemptStatus) -> None:
        job = next((job for job in seen.attempts if job.attempt == record.number), None)
        if job and job.started and record.running:
            self._queued.observe(_seconds(job.started, job.created))
            self._starting.observe(_seconds(record.running, job.started))

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        self._define(f"{name}_total", "counter", labels, text)
        return Counter(f"{PREFIX}_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        self._define(name, "gauge", (), text)
        return Gauge(f"{PREFIX}_{name}", text, registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: Sequence[float] = Histogram.DEFAULT_BUCKETS
    ) -> Histogram:
        self._define(name, "histogram", (), text)
        return Histogram(f"{PREFIX}_{name}", text, buckets=buckets, registry=self.registry)

    def _durations(self, name: str, text: str) -> Histogram:
        return self._histogram(name, text, MINUTES)

    def _define(self, name: str, kind: MetricKind, labels: tuple[str, ...], text: str) -> None:
        self.definitions.append(Definition(f"{PREFIX}_{name}", kind, labels, text))


def _define(name: str, text: str, *labels: str) -> Definition:
    return Definition(f"{PREFIX}_{name}", "gauge", labels, text)


JOBS = _define("jobs", "Jobs by phase.", "phase")
DEPTH = _define("queue_depth", "Jobs that are due to be looked at.")
OLDEST = _define("queue_oldest_seconds", "How long the first of them has waited.")
WATCHES = _define("watch_age_seconds", "Since a watch was last known to work.", "resource")
ANSWERED = _define("api_answer_age_seconds", "Since the API server answered last.")
GAUGES = (JOBS, DEPTH, OLDEST, WATCHES, ANSWERED)


class _Gauges(Collector):
    def __init__(self, snapshot: Callable[[], Measurements | None]) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot()
        if snapshot is None:
            return
        phases = Tally(job.summary.phase for job in snapshot.jobs)
        yield _family(JOBS, {phase: phases[phase] for phase in get_args(Phase)})
        yield _family(DEPTH, {"": snapshot.queue_depth})
        yield _family(OLDEST, {"": snapshot.queue_oldest_seconds})
        yield _family(WATCHES, snapshot.watch_seconds)
        yield _family(ANSWERED, {"": snapshot.answer_seconds})
        yield from job_metrics.families(snapshot.jobs)


def _family(definition: Definition, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(definition.name, definition.meaning, labels=definition.labels)
    for value_of, value in values.items():
        family.add_metric([value_of] if definition.labels else [], value)
    return family


def _record(status: Status | None, number: int) -> AttemptStatus | None:
    records = status.attempts if status else []
    return next((record for record in records if record.number == number), None)


def _seconds(later: datetime, earlier: datetime) -> float:
    return max((later - earlier).total_seconds(), 0.0)
