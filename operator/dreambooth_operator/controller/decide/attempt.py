"""An attempt that has not ended: stop it, close it, or report how it is doing."""

from collections.abc import Sequence

from dreambooth_api.contract.conditions import ConditionType, Reason
from dreambooth_api.models.pods.runtime import ranks_per_node
from dreambooth_api.models.status import AttemptStatus
from dreambooth_operator.controller.decide.completion import reopen
from dreambooth_operator.controller.decide.deadlines import (
    active_deadline_exceeded,
    idle_quota_exceeded,
    is_lost,
    start_deadline_exceeded,
)
from dreambooth_operator.controller.decide.failures import classify_failure, lost_node
from dreambooth_operator.controller.decide.pod_start import (
    check_refusal,
    not_ready_reason,
    start_failure,
)
from dreambooth_operator.controller.decide.preflight import confirm_preflight
from dreambooth_operator.controller.decide.progress import (
    add_final_report,
    add_output,
    report_progress,
    report_push,
)
from dreambooth_operator.controller.decide.sidecars import sidecars_outlive
from dreambooth_operator.controller.decide.state.builder import DecisionBuilder
from dreambooth_operator.controller.decide.state.history import (
    AttemptResult,
    close_attempt,
    count_refusal,
    has_open_attempt,
    has_run,
    record_checkpoint,
    record_result,
    update_attempt,
)
from dreambooth_operator.controller.decide.suspend import (
    SUSPENDED,
    report_admitted,
    report_queued,
    suspension,
)
from dreambooth_operator.controller.kube.job_snapshots import JobSnapshot
from dreambooth_operator.controller.kube.pod_snapshots import PodSnapshot
from dreambooth_operator.manifests.resources import config_map, service

STOPPING = (Reason.STOPPING, "the pods are saving their state and stopping")


def advance_attempt(builder: DecisionBuilder, record: AttemptStatus) -> None:
    """Decide about the newest attempt, whose record is open (status.attempts[]).

    Why it ends is recorded before anything is stopped, so that an operator that dies in between
    goes on where it was.
    """
    jobs = [job for job in builder.observed.attempts if job.attempt == record.number]
    _advance(builder, record, jobs[0] if jobs else None)
    # By number, not by owner: the Job may be gone, and its pods with it.
    pods = [pod for pod in builder.observed.pods if pod.attempt == record.number]
    builder.status = add_final_report(builder.status, pods)
    report_push(builder, pods)
    if not has_open_attempt(builder.status):
        builder.status = record_checkpoint(count_refusal(builder.status))


def _advance(builder: DecisionBuilder, record: AttemptStatus, job: JobSnapshot | None) -> None:
    # Success first: training may have finished while the attempt was being stopped.
    if job is not None and job.complete:
        _close(builder, AttemptResult("Succeeded"), job)
    elif record.outcome is not None:  # recorded by an earlier decision
        _finish_stopping(builder, job)
    elif job is None:
        _close(builder, _deleted(builder, f"the Job of attempt {record.number} is gone"), job)
    elif job.failed:
        _close(builder, _failure(builder, job), job)
    elif result := _reason_to_stop(builder, record, job):
        builder.status = record_result(builder.status, result)
    else:
        _report(builder, record, job)


def _close(builder: DecisionBuilder, result: AttemptResult, job: JobSnapshot | None) -> None:
    builder.status = record_result(builder.status, result)
    _close_record(builder, job)


def _close_record(builder: DecisionBuilder, job: JobSnapshot | None) -> None:
    """Close an attempt as of when its Job ended: the operator may have been down since.

    A preemption was counted when the queue suspended the Job, before the Job ended.
    """
    ended = job.ended.replace(microsecond=0) if job and job.ended else builder.now
    queued = builder.condition_status(ConditionType.QUEUED) == "True"
    builder.status = close_attempt(
        builder.status,
        builder.runtime.restart.policy(),
        min(ended, builder.now),
        is_counted=queued and builder.status.attempts[-1].outcome == "Preempted",
    )
    builder.remove_conditions(
        ConditionType.PODS_READY,
        ConditionType.QUEUED,
        ConditionType.PROGRESS_KNOWN,
        ConditionType.CHECKPOINTS_SAVED,
    )


def _finish_stopping(builder: DecisionBuilder, job: JobSnapshot | None) -> None:
    """Delete the Job of an attempt whose result is recorded; close it once its pods have ended."""
    if job is None or job.failed or _only_lost_pods_are_left(builder, job):
        _close_record(builder, job)
    else:
        builder.set_condition(ConditionType.PODS_READY, "False", *STOPPING)
        builder.delete(job)
        _poll_progress(builder, job)


def _only_lost_pods_are_left(builder: DecisionBuilder, job: JobSnapshot) -> bool:
    left = [pod for pod in builder.observed.pods_of(job) if not pod.released]
    return job.deleting and bool(left) and all(is_lost(builder, pod) for pod in left)


def _reason_to_stop(
    builder: DecisionBuilder, record: AttemptStatus, job: JobSnapshot
) -> AttemptResult | None:
    """Why a live attempt must end; the user's own request comes first."""
    if job.deleting:
        return _deleted(builder, f"Job {job.name} is being deleted")
    if result := suspension(builder, job):
        return result
    pods = _current_pods(builder, job)
    if result := _trainers_ended(builder, job, pods):
        return result
    if message := active_deadline_exceeded(builder, record):
        return AttemptResult("Failed", message, final=True)
    # A Job waits for ever for a pod that never stops.
    if lost_pods := [pod for pod in pods if is_lost(builder, pod)]:
        if job.failing:
            return _failure(builder, job)
        return lost_node(lost_pods[0], ranks_per_node(builder.runtime))
    # A suspended Job has no pods to check, and a failing one stops them itself.
    if job.suspended or job.failing:
        return None
    return _pod_failure(builder, record, job, pods)


def _trainers_ended(
    builder: DecisionBuilder, job: JobSnapshot, pods: Sequence[PodSnapshot]
) -> AttemptResult | None:
    """The result of an attempt whose trainers have ended in pods that a sidecar keeps running.

    The Job would wait for the sidecars for ever, and hold the GPUs.
    """
    if not sidecars_outlive(builder, pods):
        return None
    if all(pod.exit_code == 0 for pod in pods) and len(pods) >= builder.runtime.nodes:
        return AttemptResult("Succeeded")
    return _failure(builder, job) if any(pod.exit_code for pod in pods) else None


def _pod_failure(
    builder: DecisionBuilder, record: AttemptStatus, job: JobSnapshot, pods: Sequence[PodSnapshot]
) -> AttemptResult | None:
    """Why an attempt must end that its Job would let go on."""
    if result := _replacement(builder, pods):
        return result
    message = start_failure(builder, pods)
    if message is None and record.running is None:
        message = start_deadline_exceeded(builder, job, pods, builder.runtime.nodes)
        if idle := idle_quota_exceeded(builder, job, pods, builder.runtime.nodes):
            return AttemptResult("Disrupted", idle)  # the job waits for its turn again
    if message is None:
        return None
    if has_run(builder.status):  # the pods are given back, and started again later
        return AttemptResult("Disrupted", message)
    return AttemptResult("Failed", message, final=True)


def _replacement(builder: DecisionBuilder, pods: Sequence[PodSnapshot]) -> AttemptResult | None:
    """The result of an attempt with a second pod of one index.

    The Job controller replaces a pod that was deleted, but its peers cannot go on.
    """
    newest: dict[int, PodSnapshot] = {}
    for pod in sorted(pods, key=lambda pod: (pod.created, pod.name)):
        before = newest.get(pod.index)
        if before is not None:
            rank = pod.index * ranks_per_node(builder.runtime)
            reason = f"pod {before.name} was deleted, and {pod.name} took its place"
            return AttemptResult("Disrupted", reason, rank=rank, node=before.node)
        newest[pod.index] = pod
    return None


def _deleted(builder: DecisionBuilder, reason: str) -> AttemptResult:
    """The result of an attempt whose Job the operator did not delete, unless to suspend it."""
    if builder.job.spec.suspend:
        return SUSPENDED
    return AttemptResult("Disrupted", f"{reason}: it was deleted by hand")


def _failure(builder: DecisionBuilder, job: JobSnapshot) -> AttemptResult:
    """The result of an attempt whose Job fails or has failed.

    A Job that fails while its queue suspends it was preempted: suspending stops its pods.
    """
    if job.suspended:
        return AttemptResult("Preempted", "the queue took the nodes back")
    return classify_failure(
        job,
        _current_pods(builder, job),
        ranks_per_node(builder.runtime),
        has_checkpoint=builder.status.last_checkpoint is not None,
    )


def _report(builder: DecisionBuilder, record: AttemptStatus, job: JobSnapshot) -> None:
    """Report an attempt that goes on, and restore what it needs."""
    reopen(builder)
    confirm_preflight(builder)
    _restore_shared_children(builder, record.number)
    if job.suspended:
        report_queued(builder, record, job)
        return
    report_admitted(builder)
    pods = [pod for pod in _current_pods(builder, job) if not pod.ended]
    nodes = builder.runtime.nodes
    if sum(pod.ready for pod in pods) >= nodes:
        _report_joined(builder, record, nodes)
    else:
        refusal = check_refusal(builder, job)
        reason = STOPPING if job.failing else not_ready_reason(pods, nodes, refusal)
        builder.set_condition(ConditionType.PODS_READY, "False", *reason)
    # A pod that is not ready for a moment does not take a running job back to Starting.
    if builder.status.attempts[-1].running:
        builder.set_phase("Running")
        _poll_progress(builder, job)
    else:
        builder.set_phase("Starting")


def _restore_shared_children(builder: DecisionBuilder, attempt: int) -> None:
    """Pods that start need the Service for their names and the ConfigMap for their job."""
    shared = [service(builder.job, attempt), config_map(builder.job)]
    builder.apply([each for each in shared if each["kind"] in builder.observed.damaged])


def _report_joined(builder: DecisionBuilder, record: AttemptStatus, nodes: int) -> None:
    message = f"{nodes} of {nodes} have joined"
    builder.set_condition(ConditionType.PODS_READY, "True", Reason.ALL_JOINED, message)
    builder.status = add_output(builder.status, builder.job)
    if record.running is None:
        builder.status = update_attempt(builder.status, running=builder.now)
        builder.update_status(stage="Preparing")


def _poll_progress(builder: DecisionBuilder, job: JobSnapshot) -> None:
    """Have the pod of rank 0 polled, and report what it answered last.

    A pod that is stopping is polled, too: it may save a checkpoint.
    """
    pods = [pod for pod in _current_pods(builder, job) if pod.index == 0 and not pod.ended]
    builder.poll_address = next((pod.endpoint for pod in pods if pod.running), None)
    report_progress(builder, job)


def _current_pods(builder: DecisionBuilder, job: JobSnapshot) -> list[PodSnapshot]:
    """Pods of an attempt, without those that a queue stopped before it resumed the Job."""
    return [pod for pod in builder.observed.pods_of(job) if not _ended_before_resumption(pod, job)]


def _ended_before_resumption(pod: PodSnapshot, job: JobSnapshot) -> bool:
    """Whether a pod had ended when its Job was last resumed.

    Its creation time does not show that: a resumed Job has pods before it has its startTime.
    """
    # The request comes first where there is one: a pod may take its whole grace period to end.
    ended = min((time for time in (pod.deletion_requested, pod.finished) if time), default=None)
    # Deleted while the watch was away: it ended at an unknown time, at the earliest when it was
    # created.
    if ended is None and pod.gone:
        ended = pod.created
    if ended is None or job.started is None:
        return False
    # The API's times are whole seconds: a pod may end in the very second of the resumption.
    return pod.created < job.started and ended <= job.started
