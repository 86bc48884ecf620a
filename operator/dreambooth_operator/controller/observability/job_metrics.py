"""What the operator tells Prometheus of each DreamBoothJob.

Every series is read from what exists when somebody asks: a job has a fixed number of them, at most
16, and none once it is deleted. They carry the labels `namespace` and `job`, as those of the
trainer do, so that both can be joined.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from dreambooth_api.contract.metrics import Definition
from dreambooth_operator.controller.kube.snapshots import Key, PodSnapshot
from dreambooth_operator.controller.watch.job_summary import JobSummary
from dreambooth_operator.manifests.names import TRAINER

PREFIX = "dreambooth_job"
Row = tuple[list[str], float]
"""The values of a series' labels but `namespace` and `job`, and its own."""


@dataclass(frozen=True)
class MeasuredJob:
    """A job at the moment of a scrape."""

    key: Key
    summary: JobSummary
    pods: int
    """Pods that train or are about to: they have a node, and have not ended."""


def _gauge(name: str, meaning: str, *labels: str) -> Definition:
    return Definition(f"{PREFIX}_{name}", "gauge", ("namespace", "job", *labels), meaning)


INFO = _gauge("info", "1 for each job: its queue and the folder of its run.", "queue", "output")
PHASE = _gauge("phase", "1 for the phase and stage that the job is in.", "phase", "stage")
SINCE = _gauge("phase_start_timestamp_seconds", "Unix time at which the phase began.")
REQUESTED = _gauge("gpus_requested", "GPUs that the job asks for.")
IN_USE = _gauge("gpus_in_use", "GPUs that its pods hold.")
STEP = _gauge("step", "Optimizer steps done, as the status says.")
TARGET = _gauge("target_steps", "Optimizer steps that the job asks for.")
SAVED_STEP = _gauge("checkpoint_step", "Step of the newest durable checkpoint.")
SAVED_TIME = _gauge("checkpoint_timestamp_seconds", "Unix time of the newest durable checkpoint.")
STARTED = _gauge(
    "attempt_start_timestamp_seconds", "Unix time at which the newest attempt began.", "attempt"
)
ENDED = _gauge(
    "attempt_end_timestamp_seconds",
    "Unix time at which an attempt ended last, how, and the exit code of who failed first.",
    "attempt", "outcome", "exit_code",
)  # fmt: skip
INTERRUPTIONS = Definition(
    f"{PREFIX}_interruptions_total",
    "counter",
    ("namespace", "job", "reason"),
    "Attempts that failed, stalled, were disrupted or preempted.",
)
DEFINITIONS = (
    INFO, PHASE, SINCE, REQUESTED, IN_USE, STEP, TARGET, SAVED_STEP, SAVED_TIME, STARTED, ENDED,
    INTERRUPTIONS,
)  # fmt: skip


def training(pods: Iterable[PodSnapshot]) -> int:
    """How many of a job's pods hold its GPUs."""
    return sum(pod.component == TRAINER and bool(pod.node) and not pod.ended for pod in pods)


def families(jobs: Iterable[MeasuredJob]) -> Iterator[Metric]:
    """All series of all jobs."""
    found = {definition.name: _family(definition) for definition in DEFINITIONS}
    for job in jobs:
        for definition, (labels, value) in _rows(job):
            found[definition.name].add_metric([job.key.namespace, job.key.name, *labels], value)
    return iter(found.values())


def _family(definition: Definition) -> CounterMetricFamily | GaugeMetricFamily:
    made = CounterMetricFamily if definition.kind == "counter" else GaugeMetricFamily
    return made(definition.name, definition.meaning, labels=definition.labels)


def _rows(job: MeasuredJob) -> Iterator[tuple[Definition, Row]]:
    summary = job.summary
    yield INFO, ([summary.queue, summary.output], 1)
    yield PHASE, ([summary.phase, summary.stage], 1)
    yield SINCE, ([], summary.since.timestamp())
    yield REQUESTED, ([], summary.nodes * summary.gpus_per_node)
    yield IN_USE, ([], job.pods * summary.gpus_per_node)
    yield STEP, ([], summary.step)
    yield TARGET, ([], summary.target_steps)
    for outcome, count in summary.interruptions.items():
        yield INTERRUPTIONS, ([outcome], count)
    if summary.checkpoint:
        step, time = summary.checkpoint
        yield SAVED_STEP, ([], step)
        yield SAVED_TIME, ([], time.timestamp())
    if summary.attempt:
        yield STARTED, ([str(summary.attempt.number)], summary.attempt.started.timestamp())
    if summary.ended and summary.ended.ended:
        code = "" if summary.ended.exit_code is None else str(summary.ended.exit_code)
        labels = [str(summary.ended.number), summary.ended.outcome or "", code]
        yield ENDED, (labels, summary.ended.ended.timestamp())
