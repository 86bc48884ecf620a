"""The check before training: one CPU pod that looks at everything before a GPU is asked for."""

from collections.abc import Iterable

from dreambooth_operator.controller.decide import conditions
from dreambooth_operator.controller.decide.children import preflight_children
from dreambooth_operator.controller.decide.draft import Draft
from dreambooth_operator.controller.decide.start_problems import start_problem, why_not_ready
from dreambooth_operator.controller.kube.snapshots import JobSnapshot, PodSnapshot

RUNNING = ("Running", "storage, images, model and prompts are being checked")


def follow_preflight(draft: Draft) -> None:
    """Start the preflight, wait for it, and put its report into a condition.

    False is the end of the job: the report holds the whole list of what to mend.
    """
    job = draft.seen.preflight
    if draft.job.spec.runtime.suspend and (job is None or not job.live):
        draft.phase("Suspended")
    elif job is None:
        draft.apply(preflight_children(draft.job, draft.policy.default_image))
        _wait(draft, *RUNNING)
    elif job.complete:
        _passed(draft, job)
    elif job.failed:
        _failed(draft, "Refused", _report_of(_pods(draft, job)) or _told(job))
    else:
        _follow_pods(draft, job)


def confirm_preflight(draft: Draft) -> None:
    """An attempt goes on, so the preflight has passed, whatever became of the condition."""
    if conditions.truth(draft.status.conditions, conditions.PREFLIGHT_PASSED) != "True":
        _passed(draft, draft.seen.preflight)


def _follow_pods(draft: Draft, job: JobSnapshot) -> None:
    pods = [pod for pod in _pods(draft, job) if not pod.ended]
    if pods and all(draft.is_lost(pod) for pod in pods):
        draft.abandon(job)  # and it is started anew
        return
    why = _not_started(draft, job, pods)
    if why:
        draft.delete(job)
        _failed(draft, "NotStarted", why)
        return
    reason, message = why_not_ready(pods, 1)
    report = _report_of(_pods(draft, job))
    if report:
        reason, message = "Retrying", report
    _wait(draft, *(RUNNING if reason == "Starting" else (reason, message)))


def _not_started(draft: Draft, job: JobSnapshot, pods: list[PodSnapshot]) -> str:
    """Why the preflight will not start any more; empty while it may."""
    problem = start_problem(pods, draft.now, draft.policy)
    if problem and problem.patience_seconds <= 0:
        return problem.message
    if problem:
        draft.wake(problem.patience_seconds)
    limit = draft.job.spec.runtime.start_deadline_seconds
    if not limit or any(pod.running for pod in _pods(draft, job)):
        return ""
    left = limit - (draft.now - (job.started or job.created)).total_seconds()
    if left > 0:
        draft.wake(left)
        return ""
    _, why = why_not_ready(pods, 1)
    return f"not started after spec.runtime.startDeadlineSeconds ({limit} s): {why}"


def _wait(draft: Draft, reason: str, message: str) -> None:
    draft.condition(conditions.PREFLIGHT_PASSED, "Unknown", reason, message)
    draft.phase("Preflight")


def _passed(draft: Draft, job: JobSnapshot | None) -> None:
    report = (job and _report_of(_pods(draft, job))) or "the job can be trained"
    draft.condition(conditions.PREFLIGHT_PASSED, "True", "Passed", report)


def _failed(draft: Draft, reason: str, message: str) -> None:
    draft.condition(conditions.PREFLIGHT_PASSED, "False", reason, message)


def _pods(draft: Draft, job: JobSnapshot) -> list[PodSnapshot]:
    return [pod for pod in draft.seen.pods if pod.job_uid == job.uid]


def _report_of(pods: Iterable[PodSnapshot]) -> str:
    """The termination message of the pod that ended last."""
    told = [pod for pod in pods if pod.finished and pod.termination.message]
    newest = max(told, key=lambda pod: (pod.finished, pod.name), default=None)
    return newest.termination.message if newest else ""


def _told(job: JobSnapshot) -> str:
    return f"{job.failure_reason}: {job.failure_message}".strip(": ") or "the preflight failed"
