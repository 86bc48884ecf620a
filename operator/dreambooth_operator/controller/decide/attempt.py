"""What to do about an attempt that has not ended: stop it, close its record, or report on it."""

from datetime import datetime

from dreambooth_api.models.runtime import ranks_per_node
from dreambooth_api.models.status import AttemptStatus, Counters
from dreambooth_operator.controller.decide import conditions, history, progress
from dreambooth_operator.controller.decide.builder import DecisionBuilder
from dreambooth_operator.controller.decide.conditions import truth
from dreambooth_operator.controller.decide.failures import Verdict, judge, lost
from dreambooth_operator.controller.decide.pod_start import start_problem, why_not_ready
from dreambooth_operator.controller.decide.preflight import confirm_preflight
from dreambooth_operator.controller.kube.snapshots import JobSnapshot, PodSnapshot
from dreambooth_operator.manifests.resources import config_map, service

WAITING = ("Waiting", "the queue holds the job back")
STOPPING = ("Stopping", "the pods save their state and stop")


def follow(builder: DecisionBuilder, record: AttemptStatus) -> None:
    """Decide about the newest attempt, whose record is open.

    How it is to end is written down before anything is stopped, so that an operator that dies in
    between goes on where it was.
    """
    job = next((job for job in builder.seen.attempts if job.attempt == record.number), None)
    _follow(builder, record, job)
    pods = [pod for pod in builder.seen.pods if pod.attempt == record.number]
    builder.status = progress.saved(builder.status, pods)  # their Job may be gone already


def _follow(builder: DecisionBuilder, record: AttemptStatus, job: JobSnapshot | None) -> None:
    if job is not None and job.complete:
        _close(builder, Verdict("Succeeded"), job)
    elif record.outcome is not None:
        _finish_stopping(builder, job)
    elif job is None:
        _close(builder, _gone(builder, f"Job of attempt {record.number} is gone"), job)
    elif job.failed:
        _close(builder, _judged(builder, job), job)
    elif verdict := _reason_to_stop(builder, record, job):
        builder.status = history.ending(builder.status, verdict)
    else:
        _report(builder, record, job)


def current_pods(builder: DecisionBuilder, job: JobSnapshot) -> list[PodSnapshot]:
    """Pods of an attempt, without those that stopped for a queue before it was last resumed."""
    return [pod for pod in _pods(builder, job) if not _of_the_past(pod, job)]


def _pods(builder: DecisionBuilder, job: JobSnapshot) -> list[PodSnapshot]:
    return [pod for pod in builder.seen.pods if pod.job_uid == job.uid]


def _of_the_past(pod: PodSnapshot, job: JobSnapshot) -> bool:
    """Whether it had ended when its Job was last resumed. When it was made does not tell, as the
    pods of a resumed Job are made before its start is written down.
    """
    ended = min((time for time in (pod.deletion_requested, pod.finished) if time), default=None)
    if ended is None and pod.gone:
        ended = pod.created
    return ended is not None and job.started is not None and ended < job.started


def _close(builder: DecisionBuilder, verdict: Verdict, job: JobSnapshot | None) -> None:
    builder.status = history.ending(builder.status, verdict)
    _end_record(builder, job)


def _end_record(builder: DecisionBuilder, job: JobSnapshot | None) -> None:
    """The attempt ended when its Job did: the operator may have been away since.

    A preemption is counted when the queue takes the nodes back, before the Job ends.
    """
    ended = job.ended.replace(microsecond=0) if job and job.ended else builder.now
    queued = truth(builder.status.conditions, conditions.QUEUED) == "True"
    builder.status = history.closed(
        builder.status,
        builder.job.spec.runtime.restart,
        min(ended, builder.now),
        is_counted=queued and builder.status.attempts[-1].outcome == "Preempted",
    )
    builder.drop_conditions(conditions.PODS_READY, conditions.QUEUED, conditions.PROGRESS_KNOWN)


def _finish_stopping(builder: DecisionBuilder, job: JobSnapshot | None) -> None:
    """The attempt is asked to stop, and closed when its pods have ended or are given up."""
    if job is None or job.failed or _given_up(builder, job):
        _end_record(builder, job)
    else:
        builder.condition(conditions.PODS_READY, "False", *STOPPING)
        builder.delete(job)
        builder.poll_address = _rank_zero(builder, job)
        _report_progress(builder, job)


def _given_up(builder: DecisionBuilder, job: JobSnapshot) -> bool:
    """Whether the only pods left are lost ones."""
    left = [pod for pod in _pods(builder, job) if not pod.ended]
    return job.deleting and bool(left) and all(builder.is_lost(pod) for pod in left)


def _judged(builder: DecisionBuilder, job: JobSnapshot) -> Verdict:
    """The verdict on a Job that failed. One that failed while a queue held it back was preempted:
    suspending a Job stops its pods.
    """
    if job.suspended:
        return Verdict("Preempted", "the queue took the nodes back")
    return judge(job, current_pods(builder, job), _ranks(builder))


def _gone(builder: DecisionBuilder, reason: str) -> Verdict:
    if builder.job.spec.suspend:
        return Verdict("Suspended", "spec.suspend is true")
    return Verdict("Disrupted", f"{reason}: it was deleted by hand")


def _reason_to_stop(
    builder: DecisionBuilder, record: AttemptStatus, job: JobSnapshot
) -> Verdict | None:
    """Why a live attempt must end, the weightiest reason first."""
    runtime = builder.job.spec.runtime
    if job.deleting:
        return _gone(builder, f"Job {job.name} is being deleted")
    if builder.job.spec.suspend:
        return Verdict("Suspended", "spec.suspend is true")
    if job.completions not in (None, runtime.nodes):
        return Verdict("Suspended", "spec.runtime.nodes was changed while the job was suspended")
    pods = current_pods(builder, job)
    return (
        _over_deadline(builder, record)
        or _lost_pod(builder, job, pods)
        or (None if job.suspended or job.failing else _pod_trouble(builder, record, job, pods))
    )


def _pod_trouble(
    builder: DecisionBuilder, record: AttemptStatus, job: JobSnapshot, pods: list[PodSnapshot]
) -> Verdict | None:
    return (
        _replaced(builder, pods)
        or _not_starting(builder, pods)
        or (None if record.running else _over_start_deadline(builder, job, pods))
    )


def _over_deadline(builder: DecisionBuilder, record: AttemptStatus) -> Verdict | None:
    """spec.runtime.activeDeadlineSeconds, over all attempts; queueing and starting do not count."""
    limit = builder.job.spec.runtime.active_deadline_seconds
    if not limit or record.running is None:
        return None
    ran = builder.status.run_seconds + (builder.now - record.running).total_seconds()
    if ran < limit:
        builder.wake(limit - ran)
        return None
    told = f"the job ran for spec.runtime.activeDeadlineSeconds ({limit} s); raise it in a new job"
    return Verdict("Failed", told, final=True)


def _lost_pod(
    builder: DecisionBuilder, job: JobSnapshot, pods: list[PodSnapshot]
) -> Verdict | None:
    """A pod that does not stop holds up its Job for ever (core/v1: an unreachable node)."""
    found = [pod for pod in pods if builder.is_lost(pod)]
    if not found:
        return None
    return _judged(builder, job) if job.failing else lost(found[0], _ranks(builder))


def _replaced(builder: DecisionBuilder, pods: list[PodSnapshot]) -> Verdict | None:
    """An index with a second pod: the first was deleted, and ranks are not independent."""
    newest: dict[int, PodSnapshot] = {}
    for pod in sorted(pods, key=lambda pod: (pod.created, pod.name)):
        before = newest.get(pod.index)
        if before is not None:
            rank = pod.index * _ranks(builder)
            told = f"pod {before.name} was deleted, and {pod.name} took its place"
            return Verdict("Disrupted", told, rank=rank, node=before.node)
        newest[pod.index] = pod
    return None


def _not_starting(builder: DecisionBuilder, pods: list[PodSnapshot]) -> Verdict | None:
    problem = start_problem([pod for pod in pods if not pod.ended], builder.now, builder.policy)
    if problem is None:
        return None
    if problem.patience_seconds > 0:
        builder.wake(problem.patience_seconds)
        return None
    return Verdict("Failed", problem.message, final=True)


def _over_start_deadline(
    builder: DecisionBuilder, job: JobSnapshot, pods: list[PodSnapshot]
) -> Verdict | None:
    """spec.runtime.startDeadlineSeconds, from when the queue let the Job go."""
    runtime = builder.job.spec.runtime
    limit = runtime.start_deadline_seconds
    if not limit or sum(pod.running for pod in pods) >= runtime.nodes:
        return None
    waited = (builder.now - _since(job)).total_seconds()
    if waited < limit:
        builder.wake(limit - waited)
        return None
    _, why = why_not_ready(pods, runtime.nodes)
    told = f"not all pods run after spec.runtime.startDeadlineSeconds ({limit} s): {why}"
    return Verdict("Failed", told, final=True)


def _report(builder: DecisionBuilder, record: AttemptStatus, job: JobSnapshot) -> None:
    """The attempt goes on: say how it does."""
    _undo_end(builder)
    confirm_preflight(builder)
    _restore_shared(builder)
    if job.suspended:
        _report_queued(builder, record)
        return
    if truth(builder.status.conditions, conditions.QUEUED) != "Unknown":
        builder.condition(conditions.QUEUED, "False", "Admitted", "the queue let the job go")
    pods = [pod for pod in current_pods(builder, job) if not pod.ended]
    nodes = builder.job.spec.runtime.nodes
    if sum(pod.ready for pod in pods) >= nodes:
        _report_joined(builder, record, nodes)
    else:
        why = STOPPING if job.failing else why_not_ready(pods, nodes)
        builder.condition(conditions.PODS_READY, "False", *why)
    builder.phase("Running" if builder.status.attempts[-1].running else "Starting")
    if builder.status.phase == "Running":
        builder.poll_address = _rank_zero(builder, job)
        _report_progress(builder, job)


def _undo_end(builder: DecisionBuilder) -> None:
    """Somebody may have written that the job has ended."""
    builder.drop_conditions(conditions.COMPLETE, conditions.FAILED)
    builder.status = builder.status.model_copy(update={"completion_time": None})


def _restore_shared(builder: DecisionBuilder) -> None:
    """Pods that start need the Service for their names and the ConfigMap for their job."""
    made = {"Service": service, "ConfigMap": config_map}
    builder.apply(
        [make(builder.job) for kind, make in made.items() if kind in builder.seen.missing]
    )


def _report_joined(builder: DecisionBuilder, record: AttemptStatus, nodes: int) -> None:
    builder.condition(conditions.PODS_READY, "True", "AllJoined", f"{nodes} of {nodes} have joined")
    builder.status = progress.started(builder.status, builder.job)
    if record.running is None:
        builder.status = history.changed(builder.status, running=builder.now)
        builder.status = builder.status.model_copy(update={"stage": "Preparing"})


def _report_queued(builder: DecisionBuilder, record: AttemptStatus) -> None:
    """A Job that its queue holds back. One that had been let go before was preempted."""
    if record.running or truth(builder.status.conditions, conditions.QUEUED) == "False":
        builder.status = history.stopped_running(builder.status, builder.now)
        builder.status = history.changed(builder.status, running=None)
        counters = history.counted(builder.status.counters or Counters(), "Preempted")
        builder.status = builder.status.model_copy(update={"counters": counters})
    builder.condition(conditions.QUEUED, "True", *WAITING)
    builder.drop_conditions(conditions.PODS_READY, conditions.PROGRESS_KNOWN)
    builder.phase("Queued")


def _rank_zero(builder: DecisionBuilder, job: JobSnapshot) -> str | None:
    """Address of the pod that knows the progress."""
    pods = [pod for pod in current_pods(builder, job) if pod.index == 0 and not pod.ended]
    return next((pod.ip for pod in pods if pod.running), None)


def _report_progress(builder: DecisionBuilder, job: JobSnapshot) -> None:
    """Progress as rank 0 told it last; silence changes nothing, and is seen in a condition."""
    reading = builder.seen.reading
    if reading is None or reading.time < _since(job):
        return
    if reading.progress is None:
        builder.condition(conditions.PROGRESS_KNOWN, "False", "NoAnswer", reading.problem)
    elif reading.progress.attempt == job.attempt:
        builder.condition(conditions.PROGRESS_KNOWN, "True", "Answers", "rank 0 tells its progress")
        every = builder.policy.progress_seconds
        builder.status, wait = progress.reported(
            builder.status, reading.progress, builder.now, every
        )
        if wait > 0:
            builder.wake(wait)


def _since(job: JobSnapshot) -> datetime:
    """When the Job was made, or its queue last let it go."""
    return job.started or job.created


def _ranks(builder: DecisionBuilder) -> int:
    return ranks_per_node(builder.job.spec.runtime)
