"""The check before training: one CPU pod that looks at everything before a GPU is asked for."""

from collections.abc import Iterable

from dreambooth_operator.controller.decide import conditions
from dreambooth_operator.controller.decide.builder import DecisionBuilder
from dreambooth_operator.controller.decide.children import preflight_children
from dreambooth_operator.controller.decide.pod_start import start_problem, why_not_ready
from dreambooth_operator.controller.kube.snapshots import JobSnapshot, PodSnapshot

RUNNING = ("Running", "storage, images, model and prompts are being checked")


def follow_preflight(builder: DecisionBuilder) -> None:
    """Start the preflight, wait for it, and put its report into a condition.

    False is the end of the job: the report holds the whole list of what to mend.
    """
    job = builder.seen.preflight
    if builder.job.spec.suspend and (job is None or not job.live):
        builder.phase("Suspended")
    elif job is None:
        builder.apply(preflight_children(builder.job, builder.policy.default_image))
        _wait(builder, *RUNNING)
    elif job.complete:
        _passed(builder, job)
    elif job.failed:
        _failed(builder, "Refused", _report_of(_pods(builder, job)) or _told(job))
    else:
        _follow_pods(builder, job)


def confirm_preflight(builder: DecisionBuilder) -> None:
    """An attempt goes on, so the preflight has passed, whatever became of the condition."""
    if conditions.truth(builder.status.conditions, conditions.PREFLIGHT_PASSED) != "True":
        _passed(builder, builder.seen.preflight)


def _follow_pods(builder: DecisionBuilder, job: JobSnapshot) -> None:
    pods = [pod for pod in _pods(builder, job) if not pod.ended]
    if pods and all(builder.is_lost(pod) for pod in pods):
        builder.abandon(job)  # and it is started anew
        return
    why = _not_started(builder, job, pods)
    if why:
        builder.delete(job)
        _failed(builder, "NotStarted", why)
        return
    reason, message = why_not_ready(pods, 1)
    report = _report_of(_pods(builder, job))
    if report:
        reason, message = "Retrying", report
    _wait(builder, *(RUNNING if reason == "Starting" else (reason, message)))


def _not_started(builder: DecisionBuilder, job: JobSnapshot, pods: list[PodSnapshot]) -> str:
    """Why the preflight will not start any more; empty while it may."""
    problem = start_problem(pods, builder.now, builder.policy)
    if problem and problem.patience_seconds <= 0:
        return problem.message
    if problem:
        builder.wake(problem.patience_seconds)
    limit = builder.job.spec.runtime.start_deadline_seconds
    if not limit or any(pod.running for pod in _pods(builder, job)):
        return ""
    left = limit - (builder.now - (job.started or job.created)).total_seconds()
    if left > 0:
        builder.wake(left)
        return ""
    _, why = why_not_ready(pods, 1)
    return f"not started after spec.runtime.startDeadlineSeconds ({limit} s): {why}"


def _wait(builder: DecisionBuilder, reason: str, message: str) -> None:
    builder.condition(conditions.PREFLIGHT_PASSED, "Unknown", reason, message)
    builder.phase("Preflight")


def _passed(builder: DecisionBuilder, job: JobSnapshot | None) -> None:
    report = (job and _report_of(_pods(builder, job))) or "the job can be trained"
    builder.condition(conditions.PREFLIGHT_PASSED, "True", "Passed", report)


def _failed(builder: DecisionBuilder, reason: str, message: str) -> None:
    builder.condition(conditions.PREFLIGHT_PASSED, "False", reason, message)


def _pods(builder: DecisionBuilder, job: JobSnapshot) -> list[PodSnapshot]:
    return [pod for pod in builder.seen.pods if pod.job_uid == job.uid]


def _report_of(pods: Iterable[PodSnapshot]) -> str:
    """The termination message of the pod that ended last."""
    told = [pod for pod in pods if pod.finished and pod.termination.message]
    newest = max(told, key=lambda pod: (pod.finished, pod.name), default=None)
    return newest.termination.message if newest else ""


def _told(job: JobSnapshot) -> str:
    return f"{job.failure_reason}: {job.failure_message}".strip(": ") or "the preflight failed"
