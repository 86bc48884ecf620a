"""The Prometheus series of each DreamBoothJob.

They are computed at each scrape from the jobs that exist: at most 16 for a job, and none once it is
deleted. Their labels `namespace` and `job` are those of the trainer's metrics, so both can be
joined.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from dreambooth_api.contract.metrics import Definition
from dreambooth_operator.controller.kube.objects import Key
from dreambooth_operator.controller.kube.pod_snapshots import PodSnapshot
from dreambooth_operator.controller.observability import definitions as d
from dreambooth_operator.controller.watch.job_summary import JobSummary
from dreambooth_operator.manifests.names import TRAINER

Sample = tuple[Definition, list[str], float]
"""A metric, the values of its labels after `namespace` and `job`, and its own value."""


@dataclass(frozen=True)
class MeasuredJob:
    """A job at the moment of a scrape."""

    key: Key
    summary: JobSummary
    gpu_pods: int
    """Pods that hold the job's GPUs."""


def count_gpu_pods(pods: Iterable[PodSnapshot]) -> int:
    """Number of pods that hold the job's GPUs: they have a node (spec.nodeName) and run there."""
    return sum(pod.component == TRAINER and bool(pod.node) and not pod.released for pod in pods)


def collect(jobs: Iterable[MeasuredJob]) -> Iterator[Metric]:
    """All series of all jobs; times are Unix times in seconds."""
    # One family for all jobs: in the exposition format a metric's series must be together.
    families = {definition: _family(definition) for definition in d.JOB_METRICS}
    for job in jobs:
        for definition, labels, value in _samples(job):
            families[definition].add_metric([job.key.namespace, job.key.name, *labels], value)
    return iter(families.values())


def _family(definition: Definition) -> CounterMetricFamily | GaugeMetricFamily:
    family = CounterMetricFamily if definition.kind == "counter" else GaugeMetricFamily
    return family(definition.name, definition.meaning, labels=definition.labels)


def _samples(job: MeasuredJob) -> Iterator[Sample]:
    summary = job.summary
    yield d.JOB_INFO, [summary.queue, summary.output], 1
    yield d.JOB_PHASE, [summary.phase, summary.stage], 1
    yield d.JOB_PHASE_START, [], summary.phase_start.timestamp()
    yield d.JOB_GPUS_REQUESTED, [], summary.nodes * summary.gpus_per_node
    yield d.JOB_GPUS_IN_USE, [], job.gpu_pods * summary.gpus_per_node
    yield d.JOB_STEP, [], summary.step
    yield d.JOB_TARGET_STEPS, [], summary.target_steps
    for outcome, count in summary.interruptions.items():
        yield d.JOB_INTERRUPTIONS, [outcome], count
    if summary.checkpoint:
        yield d.JOB_CHECKPOINT_STEP, [], summary.checkpoint.step
        yield d.JOB_CHECKPOINT_TIME, [], summary.checkpoint.time.timestamp()
    if attempt := summary.attempt:
        yield d.JOB_ATTEMPT_START, [str(attempt.number)], attempt.started.timestamp()
    if (attempt := summary.ended_attempt) and attempt.ended:
        exit_code = "" if attempt.exit_code is None else str(attempt.exit_code)
        labels = [str(attempt.number), attempt.outcome or "", exit_code]
        yield d.JOB_ATTEMPT_END, labels, attempt.ended.timestamp()
