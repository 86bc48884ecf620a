"""What to do about an attempt that has not ended: stop it, close its record, or report on it."""

from datetime import datetime

from dreambooth_api.models.runtime import ranks_per_node
from dreambooth_api.models.status import AttemptStatus, Counters
from dreambooth_operator.controller.decide import attempts, conditions, progress
from dreambooth_operator.controller.decide.conditions import truth
from dreambooth_operator.controller.decide.draft import Draft
from dreambooth_operator.controller.decide.failures import Verdict, judge, lost
from dreambooth_operator.controller.decide.preflight import confirm_preflight
from dreambooth_operator.controller.decide.start_problems import start_problem, why_not_ready
from dreambooth_operator.controller.kube.snapshots import JobSnapshot, PodSnapshot
from dreambooth_operator.manifests.resources import config_map, service

WAITING = ("Waiting", "the queue holds the job back")
STOPPING = ("Stopping", "the pods save their state and stop")


def follow(draft: Draft, record: AttemptStatus) -> None:
    """Decide about the newest attempt, whose record is open.

    How it is to end is written down before anything is stopped, so that an operator that dies in
    between goes on where it was.
    """
    job = next((job for job in draft.seen.attempts if job.attempt == record.number), None)
    _follow(draft, record, job)
    pods = [pod for pod in draft.seen.pods if pod.attempt == record.number]
    draft.status = progress.saved(draft.status, pods)  # their Job may be gone already


def _follow(draft: Draft, record: AttemptStatus, job: JobSnapshot | None) -> None:
    if job is not None and job.complete:
        _close(draft, Verdict("Succeeded"), job)
    elif record.outcome is not None:
        _finish_stopping(draft, job)
    elif job is None:
        _close(draft, _gone(draft, f"Job of attempt {record.number} is gone"), job)
    elif job.failed:
        _close(draft, _judged(draft, job), job)
    elif verdict := _reason_to_stop(draft, record, job):
        draft.status = attempts.ending(draft.status, verdict)
    else:
        _report(draft, record, job)


def current_pods(draft: Draft, job: JobSnapshot) -> list[PodSnapshot]:
    """Pods of an attempt, without those that stopped for a queue before it was last resumed."""
    return [pod for pod in _pods(draft, job) if not _of_the_past(pod, job)]


def _pods(draft: Draft, job: JobSnapshot) -> list[PodSnapshot]:
    return [pod for pod in draft.seen.pods if pod.job_uid == job.uid]


def _of_the_past(pod: PodSnapshot, job: JobSnapshot) -> bool:
    """Whether it had ended when its Job was last resumed. When it was made does not tell, as the
    pods of a resumed Job are made before its start is written down.
    """
    ended = min((time for time in (pod.stop_asked, pod.finished) if time), default=None)
    if ended is None and pod.gone:
        ended = pod.created
    return ended is not None and job.started is not None and ended < job.started


def _close(draft: Draft, verdict: Verdict, job: JobSnapshot | None) -> None:
    draft.status = attempts.ending(draft.status, verdict)
    _end_record(draft, job)


def _end_record(draft: Draft, job: JobSnapshot | None) -> None:
    """The attempt ended when its Job did: the operator may have been away since.

    A preemption is counted when the queue takes the nodes back, before the Job ends.
    """
    ended = job.ended.replace(microsecond=0) if job and job.ended else draft.now
    queued = truth(draft.status.conditions, conditions.QUEUED) == "True"
    draft.status = attempts.closed(
        draft.status,
        draft.job.spec.runtime.restart,
        min(ended, draft.now),
        is_counted=queued and draft.status.attempts[-1].outcome == "Preempted",
    )
    draft.drop_conditions(conditions.PODS_READY, conditions.QUEUED, conditions.PROGRESS_KNOWN)


def _finish_stopping(draft: Draft, job: JobSnapshot | None) -> None:
    """The attempt is asked to stop, and closed when its pods have ended or are given up."""
    if job is None or job.failed or _given_up(draft, job):
        _end_record(draft, job)
    else:
        draft.condition(conditions.PODS_READY, "False", *STOPPING)
        draft.delete(job)
        draft.poll = _rank_zero(draft, job)
        _report_progress(draft, job)


def _given_up(draft: Draft, job: JobSnapshot) -> bool:
    """Whether the only pods left are lost ones."""
    left = [pod for pod in _pods(draft, job) if not pod.ended]
    return job.deleting and bool(left) and all(draft.is_lost(pod) for pod in left)


def _judged(draft: Draft, job: JobSnapshot) -> Verdict:
    """The verdict on a Job that failed. One that failed while a queue held it back was preempted:
    suspending a Job stops its pods.
    """
    if job.suspended:
        return Verdict("Preempted", "the queue took the nodes back")
    return judge(job, current_pods(draft, job), _ranks(draft))


def _gone(draft: Draft, reason: str) -> Verdict:
    if draft.job.spec.runtime.suspend:
        return Verdict("Suspended", "spec.runtime.suspend is true")
    return Verdict("Disrupted", f"{reason}: it was deleted by hand")


def _reason_to_stop(draft: Draft, record: AttemptStatus, job: JobSnapshot) -> Verdict | None:
    """Why a live attempt must end, the weightiest reason first."""
    runtime = draft.job.spec.runtime
    if job.deleting:
        return _gone(draft, f"Job {job.name} is being deleted")
    if runtime.suspend:
        return Verdict("Suspended", "spec.runtime.suspend is true")
    if job.completions not in (None, runtime.nodes):
        return Verdict("Suspended", "spec.runtime.nodes was changed while the job was suspended")
    pods = current_pods(draft, job)
    return (
        _over_deadline(draft, record)
        or _lost_pod(draft, job, pods)
        or (None if job.suspended or job.failing else _pod_trouble(draft, record, job, pods))
    )


def _pod_trouble(
    draft: Draft, record: AttemptStatus, job: JobSnapshot, pods: list[PodSnapshot]
) -> Verdict | None:
    return (
        _replaced(draft, pods)
        or _not_starting(draft, pods)
        or (None if record.running else _over_start_deadline(draft, job, pods))
    )


def _over_deadline(draft: Draft, record: AttemptStatus) -> Verdict | None:
    """spec.runtime.activeDeadlineSeconds, over all attempts; queueing and starting do not count."""
    limit = draft.job.spec.runtime.active_deadline_seconds
    if not limit or record.running is None:
        return None
    ran = draft.status.run_seconds + (draft.now - record.running).total_seconds()
    if ran < limit:
        draft.wake(limit - ran)
        return None
    told = f"the job ran for spec.runtime.activeDeadlineSeconds ({limit} s); raise it in a new job"
    return Verdict("Failed", told, final=True)


def _lost_pod(draft: Draft, job: JobSnapshot, pods: list[PodSnapshot]) -> Verdict | None:
    """A pod that does not stop holds up its Job for ever (core/v1: an unreachable node)."""
    found = [pod for pod in pods if draft.is_lost(pod)]
    if not found:
        return None
    return _judged(draft, job) if job.failing else lost(found[0], _ranks(draft))


def _replaced(draft: Draft, pods: list[PodSnapshot]) -> Verdict | None:
    """An index with a second pod: the first was deleted, and ranks are not independent."""
    newest: dict[int, PodSnapshot] = {}
    for pod in sorted(pods, key=lambda pod: (pod.created, pod.name)):
        before = newest.get(pod.index)
        if before is not None:
            rank = pod.index * _ranks(draft)
            told = f"pod {before.name} was deleted, and {pod.name} took its place"
            return Verdict("Disrupted", told, rank=rank, node=before.node)
        newest[pod.index] = pod
    return None


def _not_starting(draft: Draft, pods: list[PodSnapshot]) -> Verdict | None:
    problem = start_problem([pod for pod in pods if not pod.ended], draft.now, draft.policy)
    if problem is None:
        return None
    if problem.patience_seconds > 0:
        draft.wake(problem.patience_seconds)
        return None
    return Verdict("Failed", problem.message, final=True)


def _over_start_deadline(draft: Draft, job: JobSnapshot, pods: list[PodSnapshot]) -> Verdict | None:
    """spec.runtime.startDeadlineSeconds, from when the queue let the Job go."""
    runtime = draft.job.spec.runtime
    limit = runtime.start_deadline_seconds
    if not limit or sum(pod.running for pod in pods) >= runtime.nodes:
        return None
    waited = (draft.now - _since(job)).total_seconds()
    if waited < limit:
        draft.wake(limit - waited)
        return None
    _, why = why_not_ready(pods, runtime.nodes)
    told = f"not all pods run after spec.runtime.startDeadlineSeconds ({limit} s): {why}"
    return Verdict("Failed", told, final=True)


def _report(draft: Draft, record: AttemptStatus, job: JobSnapshot) -> None:
    """The attempt goes on: say how it does."""
    _undo_end(draft)
    confirm_preflight(draft)
    _restore_shared(draft)
    if job.suspended:
        _report_queued(draft, record)
        return
    if truth(draft.status.conditions, conditions.QUEUED) != "Unknown":
        draft.condition(conditions.QUEUED, "False", "Admitted", "the queue let the job go")
    pods = [pod for pod in current_pods(draft, job) if not pod.ended]
    nodes = draft.job.spec.runtime.nodes
    if sum(pod.ready for pod in pods) >= nodes:
        _report_joined(draft, record, nodes)
    else:
        why = STOPPING if job.failing else why_not_ready(pods, nodes)
        draft.condition(conditions.PODS_READY, "False", *why)
    draft.phase("Running" if draft.status.attempts[-1].running else "Starting")
    if draft.status.phase == "Running":
        draft.poll = _rank_zero(draft, job)
        _report_progress(draft, job)


def _undo_end(draft: Draft) -> None:
    """Somebody may have written that the job has ended."""
    draft.drop_conditions(conditions.COMPLETE, conditions.FAILED)
    draft.status = draft.status.model_copy(update={"completion_time": None})


def _restore_shared(draft: Draft) -> None:
    """Pods that start need the Service for their names and the ConfigMap for their job."""
    made = {"Service": service, "ConfigMap": config_map}
    draft.apply([make(draft.job) for kind, make in made.items() if kind in draft.seen.missing])


def _report_joined(draft: Draft, record: AttemptStatus, nodes: int) -> None:
    draft.condition(conditions.PODS_READY, "True", "AllJoined", f"{nodes} of {nodes} have joined")
    draft.status = progress.started(draft.status, draft.job)
    if record.running is None:
        draft.status = attempts.changed(draft.status, running=draft.now)
        draft.status = draft.status.model_copy(update={"stage": "Preparing"})


def _report_queued(draft: Draft, record: AttemptStatus) -> None:
    """A Job that its queue holds back. One that had been let go before was preempted."""
    if record.running or truth(draft.status.conditions, conditions.QUEUED) == "False":
        draft.status = attempts.stopped_running(draft.status, draft.now)
        draft.status = attempts.changed(draft.status, running=None)
        counters = attempts.counted(draft.status.counters or Counters(), "Preempted")
        draft.status = draft.status.model_copy(update={"counters": counters})
    draft.condition(conditions.QUEUED, "True", *WAITING)
    draft.drop_conditions(conditions.PODS_READY, conditions.PROGRESS_KNOWN)
    draft.phase("Queued")


def _rank_zero(draft: Draft, job: JobSnapshot) -> str | None:
    """Address of the pod that knows the progress."""
    pods = [pod for pod in current_pods(draft, job) if pod.index == 0 and not pod.ended]
    return next((pod.ip for pod in pods if pod.running), None)


def _report_progress(draft: Draft, job: JobSnapshot) -> None:
    """Progress as rank 0 told it last; silence changes nothing, and is seen in a condition."""
    reading = draft.seen.reading
    if reading is None or reading.time < _since(job):
        return
    if reading.progress is None:
        draft.condition(conditions.PROGRESS_KNOWN, "False", "NoAnswer", reading.problem)
    elif reading.progress.attempt == job.attempt:
        draft.condition(conditions.PROGRESS_KNOWN, "True", "Answers", "rank 0 tells its progress")
        every = draft.policy.progress_seconds
        draft.status, wait = progress.reported(draft.status, reading.progress, draft.now, every)
        if wait > 0:
            draft.wake(wait)


def _since(job: JobSnapshot) -> datetime:
    """When the Job was made, or its queue last let it go."""
    return job.started or job.created


def _ranks(draft: Draft) -> int:
    return ranks_per_node(draft.job.spec.runtime)
