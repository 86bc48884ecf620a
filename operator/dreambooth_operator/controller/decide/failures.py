"""How an attempt ended, judged from all its pods and its Job.

A pod that knows why it ended says more than its peers, who only lost a connection; and what came
first counts, as the Job controller stops the peers of the first pod that fails. Pod objects vanish,
so the Job's own message is the last resort (`status.conditions` of a batch/v1 Job).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from dreambooth_api.contract.exit_codes import NOT_RETRYABLE, ExitCode
from dreambooth_api.contract.termination import MAX_MESSAGE
from dreambooth_operator.controller.kube.snapshots import JobSnapshot, PodSnapshot

Outcome = Literal["Succeeded", "Failed", "Disrupted", "Preempted", "Stalled", "Suspended"]

EXIT_CODE = re.compile(r"failed with exit code (\d+)")
"""In the Job controller's message about a podFailurePolicy rule."""
EVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Verdict:
    """How an attempt ended or is to end, and who ended it."""

    outcome: Outcome
    reason: str = ""
    final: bool = False
    """No restart can mend it."""
    rank: int | None = None
    node: str | None = None
    exit_code: int | None = None


def judge(job: JobSnapshot, pods: Iterable[PodSnapshot], ranks_per_node: int) -> Verdict:
    """The verdict on an attempt whose Job fails or has failed."""
    ended = [pod for pod in pods if pod.failed or pod.disruption or pod.deletion_requested]
    telling = _first(pod for pod in ended if pod.exit_code in NOT_RETRYABLE)
    if telling:
        return _blamed("Failed", telling, ranks_per_node, final=True)
    disrupted = _first(pod for pod in ended if pod.disruption)
    if disrupted:
        return _disrupted(disrupted, ranks_per_node)
    stalled = _first(pod for pod in ended if pod.exit_code == ExitCode.STALLED)
    if stalled:
        return _blamed("Stalled", stalled, ranks_per_node)
    failed = _first_failed(ended)
    stopped = _first_stopped(ended, job, failed)
    if stopped:
        words = f"pod {stopped.name} was asked to stop before any rank had failed"
        return _blamed("Disrupted", stopped, ranks_per_node, words=words)
    if failed:
        return _blamed("Failed", failed, ranks_per_node)
    return _from_message(job)


def lost(pod: PodSnapshot, ranks_per_node: int) -> Verdict:
    """The verdict when a pod does not stop: its node is out of reach."""
    words = f"pod {pod.name} does not stop; its node is taken for lost"
    return _blamed("Disrupted", pod, ranks_per_node, words=words)


def _first(pods: Iterable[PodSnapshot]) -> PodSnapshot | None:
    """The pod that ended first; of those in the same second the one with the lowest index."""
    return min(pods, key=lambda pod: (_end(pod), pod.index), default=None)


def _end(pod: PodSnapshot) -> datetime:
    """When it was asked to stop or stopped by itself, whichever came first."""
    times = [time for time in (pod.deletion_requested, pod.finished) if time]
    return min(times, default=EVER)


def _first_failed(pods: Sequence[PodSnapshot]) -> PodSnapshot | None:
    """The first pod that failed by itself; what was stopped before it could is the last resort."""
    by_itself = [p for p in pods if p.failed and p.exit_code != ExitCode.STOPPED]
    return _first(p for p in by_itself if not p.deletion_requested) or _first(
        p for p in by_itself if p.exit_code
    )


def _first_stopped(
    pods: Sequence[PodSnapshot], job: JobSnapshot, failed: PodSnapshot | None
) -> PodSnapshot | None:
    """The first pod that was asked to stop before its Job was to fail, and so made it fail.

    Both times are the control plane's. Those of containers are their nodes', whose clocks differ.
    """
    if failed is None:
        return _first(p for p in pods if p.deletion_requested or p.exit_code == ExitCode.STOPPED)
    since = job.failing
    return _first(
        p for p in pods if since and p.deletion_requested and p.deletion_requested < since
    )


def _disrupted(pod: PodSnapshot, ranks_per_node: int) -> Verdict:
    """Scheduler preemption is a preemption; eviction, a drain or a lost node a disruption."""
    outcome: Outcome = "Preempted" if pod.disruption == "PreemptionByScheduler" else "Disrupted"
    words = f"pod {pod.name} was disrupted ({pod.disruption}): {pod.disruption_message}"
    return _blamed(outcome, pod, ranks_per_node, words=words)


def _blamed(
    outcome: Outcome, pod: PodSnapshot, ranks_per_node: int, *, final: bool = False, words: str = ""
) -> Verdict:
    return Verdict(
        outcome,
        words or _words(pod),
        final=final,
        rank=_rank(pod, ranks_per_node),
        node=pod.node,
        exit_code=pod.exit_code,
    )


def _words(pod: PodSnapshot) -> str:
    """What a failed pod said, or what is known without words."""
    told = pod.termination.message[-MAX_MESSAGE:] or f"pod {pod.name} left no message"
    if pod.reason:
        told = f"pod {pod.name}: {pod.reason}: {pod.reason_message}".rstrip(": ")
    if pod.out_of_memory:
        return f"out of memory; raise spec.runtime.resources.limits.memory. {told}"
    return told


def _rank(pod: PodSnapshot, ranks_per_node: int) -> int:
    """The rank that the termination message names, else the pod's first."""
    named = pod.termination.rank
    return pod.index * ranks_per_node if named is None else named


def _from_message(job: JobSnapshot) -> Verdict:
    """No pod is left to be asked: what the Job controller wrote down."""
    message = job.failure_message
    if "DisruptionTarget" in message:
        return Verdict("Disrupted", message)
    named = EXIT_CODE.search(message)
    if named:
        code = int(named[1])
        return Verdict("Failed", message, final=code in NOT_RETRYABLE, exit_code=code)
    return Verdict("Failed", message or f"Job {job.name} failed, and no pod of it is left")
