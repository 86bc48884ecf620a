"""How an attempt ended, from its pods and its Job.

The rules are those of `contract.restart.classify`, as for a local run. What only a cluster knows is
added here: when the control plane asked a pod to stop, pods without an exit code, and the message
of the Job controller, which is the last resort because pod objects vanish.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime

from dreambooth_api.contract.exit_codes import EXTERNAL, ExitCode
from dreambooth_api.contract.restart import MAX_REFUSALS, PodEnd, classify
from dreambooth_api.contract.stages import Outcome
from dreambooth_api.contract.termination import MAX_MESSAGE
from dreambooth_operator.controller.decide.state.history import AttemptResult
from dreambooth_operator.controller.kube.job_snapshots import JobSnapshot
from dreambooth_operator.controller.kube.pod_snapshots import PodSnapshot

JOB_EXIT_CODE = re.compile(r"failed with exit code (\d+)")
"""In the Job controller's message about a podFailurePolicy rule (batch/v1 JobCondition)."""
RETRIED = (
    "The job has a checkpoint: it is retried until this is put right, at most"
    f" {MAX_REFUSALS} times without a newer checkpoint"
)
NEVER = datetime.max.replace(tzinfo=UTC)


def classify_failure(
    job: JobSnapshot, pods: Iterable[PodSnapshot], ranks_per_node: int, *, has_checkpoint: bool
) -> AttemptResult:
    """Classify the end of an attempt whose Job is failing or has failed.

    Args:
        job: The Job of the attempt.
        pods: Its pods, in any order; deleted ones as they were last seen.
        ranks_per_node: To name the first rank of a pod whose termination message names none.
        has_checkpoint: Whether the job has one (status.lastCheckpoint).
    """
    ended = [pod for pod in pods if pod.failed or pod.disruption or pod.deletion_requested]
    # If a pod failed by itself, its peers were stopped because of that, and did not end the
    # attempt.
    failed = any(_failed_by_itself(pod) for pod in ended)
    requested = {pod.uid for pod in ended if _is_stop_requested(pod, job, failed)}
    # Peers that the Job controller stopped come last, whatever the clocks of their nodes say.
    ended.sort(
        key=lambda pod: (
            bool(pod.deletion_requested) and pod.uid not in requested,
            _end(pod),
            pod.index,
        )
    )
    ends = [_pod_end(pod, stop_requested=pod.uid in requested) for pod in ended]
    end = classify(ends, has_checkpoint=has_checkpoint)
    if end is None or end.pod is None:
        return _from_job_message(job, has_checkpoint)
    pod = ended[ends.index(end.pod)]  # with its name and messages
    if end.outcome in ("Failed", "Stalled"):
        reason = _describe_failure(pod)
    elif end.pod.exit_code in EXTERNAL:
        reason = f"{_describe_failure(pod)}\n{RETRIED}"
    elif pod.disruption:
        reason = f"pod {pod.name} was disrupted ({pod.disruption}): {pod.disruption_message}"
    else:
        reason = f"pod {pod.name} was asked to stop before any rank failed"
    return _result(end.outcome, pod, reason, ranks_per_node, final=end.final)


def lost_node(pod: PodSnapshot, ranks_per_node: int) -> AttemptResult:
    """The result of an attempt with a pod that does not stop, as its node is unreachable.

    Such a pod stays Terminating and never becomes Failed (core/v1 PodPhase), so that no
    podFailurePolicy matches it.
    """
    reason = f"pod {pod.name} does not stop; its node is considered lost"
    return _result("Disrupted", pod, reason, ranks_per_node)


def _end(pod: PodSnapshot) -> datetime:
    """When it was asked to stop or stopped by itself, whichever came first."""
    return min((time for time in (pod.deletion_requested, pod.finished) if time), default=NEVER)


def _failed_by_itself(pod: PodSnapshot) -> bool:
    """Whether it failed other than by obeying a request to stop.

    A pod that was asked to stop before its container started has failed without an exit code.
    """
    return (
        pod.failed
        and pod.exit_code != ExitCode.STOPPED
        and (pod.deletion_requested is None or bool(pod.exit_code))
    )


def _is_stop_requested(pod: PodSnapshot, job: JobSnapshot, any_failed: bool) -> bool:
    """Whether it was asked to stop before its Job was failing, and so made it fail.

    Both times are the control plane's. Those of containers are their nodes', whose clocks differ.
    """
    if not any_failed:
        return pod.deletion_requested is not None or pod.exit_code == ExitCode.STOPPED
    return bool(job.failing and pod.deletion_requested and pod.deletion_requested < job.failing)


def _pod_end(pod: PodSnapshot, *, stop_requested: bool) -> PodEnd:
    code = pod.exit_code or None  # one that succeeded does not explain why its Job failed
    if code is None and _failed_by_itself(pod):
        code = ExitCode.ERROR  # the kubelet failed it, for example for its use of the disk
    return PodEnd(
        index=pod.index,
        exit_code=code,
        termination=pod.termination,
        node=pod.node,
        disruption=pod.disruption,
        stop_requested=stop_requested,
    )


def _result(
    outcome: Outcome, pod: PodSnapshot, reason: str, ranks_per_node: int, *, final: bool = False
) -> AttemptResult:
    rank = pod.termination.rank
    return AttemptResult(
        outcome,
        reason,
        final=final,
        rank=pod.index * ranks_per_node if rank is None else rank,
        node=pod.node,
        exit_code=pod.exit_code,
    )


def _describe_failure(pod: PodSnapshot) -> str:
    """The kubelet's reason, else the termination message."""
    if pod.reason:
        message = f"pod {pod.name}: {pod.reason}: {pod.reason_message}".rstrip(": ")
    else:
        message = pod.termination.message[-MAX_MESSAGE:] or f"pod {pod.name} left no message"
    if pod.out_of_memory:
        return f"out of memory; raise spec.runtime.resources.limits.memory. {message}"
    return message


def _from_job_message(job: JobSnapshot, has_checkpoint: bool) -> AttemptResult:
    """The result when no pod shows the reason: what the Job controller wrote.

    Its messages are prose, but Kubernetes has the exit code in no other place (batch/v1
    JobCondition).
    """
    message = job.failure_message
    # For example: "Pod NS/NAME has condition DisruptionTarget matching FailJob rule at index 0".
    if "DisruptionTarget" in message:
        return AttemptResult("Disrupted", message)
    if match := JOB_EXIT_CODE.search(message):
        code = int(match[1])
        if end := classify([PodEnd(0, code)], has_checkpoint=has_checkpoint):
            return AttemptResult(end.outcome, message, final=end.final, exit_code=code)
    return AttemptResult(
        "Failed", message or f"Job {job.name} failed, and none of its pods is left"
    )
