"""The preflight: one pod without a GPU checks the whole job before any GPU is requested."""

from collections.abc import Iterable

from dreambooth_api.contract.conditions import ConditionType, Reason
from dreambooth_api.contract.exit_codes import NOT_RETRYABLE
from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.models.status import AttemptStatus
from dreambooth_operator.controller.decide.completion import fail
from dreambooth_operator.controller.decide.deadlines import is_lost, start_deadline_exceeded
from dreambooth_operator.controller.decide.pod_start import (
    check_refusal,
    not_ready_reason,
    start_failure,
)
from dreambooth_operator.controller.decide.sidecars import sidecars_outlive
from dreambooth_operator.controller.decide.state.builder import DecisionBuilder
from dreambooth_operator.controller.decide.state.conditions import find_condition
from dreambooth_operator.controller.decide.state.decision import DeleteJob
from dreambooth_operator.controller.decide.state.history import has_run
from dreambooth_operator.controller.decide.suspend import queue_name
from dreambooth_operator.controller.kube.job_snapshots import JobSnapshot
from dreambooth_operator.controller.kube.pod_snapshots import PodSnapshot
from dreambooth_operator.manifests.names import Manifest
from dreambooth_operator.manifests.pods import preflight_resources
from dreambooth_operator.manifests.resources import (
    config_map,
    preflight_job,
    preflight_queue,
)

RUNNING = (Reason.RUNNING, "storage, images, model and prompts are being checked")
IN_FIRST_POD = (Reason.IN_FIRST_POD, "the first pod checks the job before it trains")
WAY_OUT = (
    "If it never admits it, add them, or suspend the job and name another queue in"
    " spec.runtime.preflight.queue or set spec.runtime.preflight.runIn to FirstPod"
)


def advance_preflight(builder: DecisionBuilder) -> bool:
    """Start the preflight, wait for it and report its result.

    A preflight that found errors fails the job, with all of them in the message. Once there is an
    attempt, the preflight has passed.

    Returns:
        Whether training may start.
    """
    if builder.status.attempts:
        return True
    if builder.condition_status(ConditionType.PREFLIGHT_PASSED) == "Unknown":
        job = builder.observed.preflight
        ended = job is not None and (job.complete or job.failed)
        if builder.runtime.preflight.run_in == "FirstPod" and not ended:
            return _leave_to_first_pod(builder, job)
        _advance(builder, job)
    condition = find_condition(builder.status.conditions, ConditionType.PREFLIGHT_PASSED)
    if condition is not None and condition.status == "False":
        fail(builder, condition.reason, condition.message)
    return condition is not None and condition.status == "True"


def confirm_preflight(builder: DecisionBuilder) -> None:
    """Set the condition PreflightPassed of a job that trains (status.conditions).

    An attempt is only started after the preflight has passed, but a status can be edited. With
    `runIn: FirstPod` it has passed when an attempt runs.
    """
    if builder.condition_status(ConditionType.PREFLIGHT_PASSED) == "True":
        return
    if builder.runtime.preflight.run_in == "FirstPod" and not has_run(builder.status):
        builder.set_condition(ConditionType.PREFLIGHT_PASSED, "Unknown", *IN_FIRST_POD)
    else:
        _pass(builder, builder.observed.preflight)


def refuse_in_first_pod(builder: DecisionBuilder, record: AttemptStatus) -> None:
    """Show the report of a first pod that refused the job (status.attempts[], its last record)."""
    by_preflight = builder.condition_status(ConditionType.PREFLIGHT_PASSED) == "Unknown"
    if by_preflight and record.running is None and record.exit_code in NOT_RETRYABLE:
        _refuse(builder, Reason.REFUSED, record.reason)


def preflight_children(job: DreamBoothJob, default_image: str) -> list[Manifest]:
    """ConfigMap (core/v1) and Job (batch/v1) of the preflight, in the order of creation."""
    return [config_map(job), preflight_job(job, default_image)]


def _leave_to_first_pod(builder: DecisionBuilder, job: JobSnapshot | None) -> bool:
    """Leave the checks to the first attempt, which may start.

    A Job of the checks is left from before the setting was changed.
    """
    if job is not None:
        builder.delete(job)
    builder.remove_conditions(ConditionType.QUEUED)
    builder.set_condition(ConditionType.PREFLIGHT_PASSED, "Unknown", *IN_FIRST_POD)
    return True


def _advance(builder: DecisionBuilder, job: JobSnapshot | None) -> None:
    if job is None or not job.suspended or builder.job.spec.suspend:
        builder.remove_conditions(ConditionType.QUEUED)
    if job is None and builder.job.spec.suspend:
        builder.set_phase("Suspended")
    elif job is None:
        builder.apply(preflight_children(builder.job, builder.policy.default_image))
        _wait(builder, *RUNNING)
    elif job.complete:
        _pass(builder, job)
    elif job.stop_reason:
        checked = any(pod.exit_code for pod in builder.observed.pods_of(job))
        _refuse(builder, Reason.REFUSED if checked else Reason.NOT_STARTED, job.stop_reason)
    elif job.failed:
        message = f"{job.failure_reason}: {job.failure_message}".strip(": ")
        # The trainer's own report lists all errors; the Job's message only names an exit code.
        report = _report(builder.observed.pods_of(job)) or message or "the preflight failed"
        _refuse(builder, Reason.REFUSED, report)
    elif builder.job.spec.suspend or job.deleting:
        _delete(builder, job)
    elif job.suspended:
        _report_queued(builder, job)
    else:
        _advance_pods(builder, job)


def _report_queued(builder: DecisionBuilder, job: JobSnapshot) -> None:
    """Report that a queue holds the preflight back: Kueue may do so with every Job of a namespace.

    No time limit counts meanwhile.
    """
    queue = preflight_queue(builder.job)
    # The setting was changed. Without one, the label is of Kueue's own choice.
    if queue and job.queue != queue:
        builder.delete(job)
    # A queue for GPUs alone never admits it, and says so only in its Workload.
    message = (
        f"{queue_name(job.queue)} holds Job {job.name} of the preflight back, which needs quota for"
        f" {_requests(builder)}. {WAY_OUT}"
    )
    builder.set_condition(ConditionType.QUEUED, "True", Reason.WAITING, message)
    builder.set_condition(ConditionType.PREFLIGHT_PASSED, "Unknown", Reason.WAITING, message)
    builder.set_phase("Queued")


def _requests(builder: DecisionBuilder) -> str:
    """What the preflight requests, in words; a limit without a request is one (core/v1)."""
    resources = preflight_resources(builder.runtime)
    requests = {**resources.limits, **resources.requests}
    amounts = [f"{amount} of {name}" for name, amount in sorted(requests.items())]
    return " and ".join(amounts) or "a pod"


def _delete(builder: DecisionBuilder, job: JobSnapshot) -> None:
    """Stop the preflight; it starts anew once the job is resumed and the Job is gone."""
    if not _delete_lost(builder, job):
        builder.delete(job)
    builder.remove_conditions(ConditionType.PREFLIGHT_PASSED)
    if builder.job.spec.suspend:
        builder.set_phase("Suspended")
    else:
        _wait(builder, Reason.STOPPING, f"waiting for Job {job.name} to be deleted")


def _delete_lost(builder: DecisionBuilder, job: JobSnapshot) -> bool:
    """Delete a Job whose pods are lost. It leaves nothing behind, so it can run again meanwhile."""
    alive = [pod for pod in builder.observed.pods_of(job) if not pod.released]
    if not alive or not all(is_lost(builder, pod) for pod in alive):
        return False
    builder.actions.append(DeleteJob(job.name, job.uid, background=True))
    return True


def _end_of_trainer(builder: DecisionBuilder, job: JobSnapshot, pods: list[PodSnapshot]) -> bool:
    """Whether the check has ended in a pod that a sidecar keeps running; its result counts."""
    if not sidecars_outlive(builder, pods):
        return False
    if any(pod.exit_code == 0 for pod in pods):
        builder.delete(job)
        _pass(builder, job)
    else:
        _stop(builder, job, Reason.REFUSED, _report(pods) or "the preflight failed")
    return True


def _advance_pods(builder: DecisionBuilder, job: JobSnapshot) -> None:
    pods = builder.observed.pods_of(job)
    if _end_of_trainer(builder, job, pods):
        return
    if _delete_lost(builder, job):
        return
    failure = start_failure(builder, pods) or start_deadline_exceeded(builder, job, pods, 1)
    if failure:
        _stop(builder, job, Reason.NOT_STARTED, failure)
    elif report := _report(pods):
        _wait(builder, Reason.RETRYING, report)
    else:
        reason, message = not_ready_reason(pods, 1, check_refusal(builder, job))
        _wait(builder, *(RUNNING if reason == Reason.STARTING else (reason, message)))


def _wait(builder: DecisionBuilder, reason: str, message: str) -> None:
    builder.set_condition(ConditionType.PREFLIGHT_PASSED, "Unknown", reason, message)
    builder.set_phase("Preflight")


def _pass(builder: DecisionBuilder, job: JobSnapshot | None) -> None:
    report = (job and _report(builder.observed.pods_of(job))) or "the job can be trained"
    builder.set_condition(ConditionType.PREFLIGHT_PASSED, "True", Reason.PASSED, report)


def _refuse(builder: DecisionBuilder, reason: Reason, message: str) -> None:
    builder.set_condition(ConditionType.PREFLIGHT_PASSED, "False", reason, message)


def _stop(builder: DecisionBuilder, job: JobSnapshot, reason: Reason, message: str) -> None:
    """Refuse the job; the preflight's Job and its events are kept for inspection."""
    builder.stop(job, message)
    _refuse(builder, reason, message)


def _report(pods: Iterable[PodSnapshot]) -> str:
    """The termination message of the pod that ended last."""
    # A preflight that was retried has several pods: the report of the last one holds.
    ended = [(pod.finished, pod.name, pod.termination.message) for pod in pods if pod.finished]
    return max((each for each in ended if each[2]), default=(None, "", ""))[2]
