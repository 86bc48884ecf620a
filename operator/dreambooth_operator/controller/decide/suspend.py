"""Suspension: by the user (spec.suspend), which ends an attempt, or by a queue, which does not."""

from dreambooth_api.contract.conditions import ConditionType, Reason
from dreambooth_api.models.status import AttemptStatus, Counters
from dreambooth_operator.controller.decide.state.builder import DecisionBuilder
from dreambooth_operator.controller.decide.state.history import (
    AttemptResult,
    add_run_time,
    count_outcome,
    update_attempt,
)
from dreambooth_operator.controller.kube.job_snapshots import JobSnapshot

SUSPENDED = AttemptResult("Suspended", "spec.suspend is true")


def suspension(builder: DecisionBuilder, job: JobSnapshot) -> AttemptResult | None:
    """The result of an attempt that the user stops (spec.suspend); None when it goes on.

    The attempt's Job is deleted rather than suspended: Kueue would resume a suspended one.
    """
    if builder.job.spec.suspend:
        return SUSPENDED
    if job.completions not in (None, builder.runtime.nodes):
        # Suspended, changed and resumed before the operator noticed.
        return AttemptResult(
            "Suspended", "spec.runtime.nodes was changed while the job was suspended"
        )
    return None


def report_queued(builder: DecisionBuilder, record: AttemptStatus, job: JobSnapshot) -> None:
    """Report an attempt whose queue suspends its Job (batch/v1 Job, spec.suspend).

    If the queue had admitted it before, this is a preemption.
    """
    # Each suspension is counted once: the changes below make this false.
    if record.running or builder.condition_status(ConditionType.QUEUED) == "False":
        status = update_attempt(add_run_time(builder.status, builder.now), running=None)
        counters = count_outcome(status.counters or Counters(), "Preempted")
        builder.status = status.model_copy(update={"counters": counters})
    message = f"{queue_name(job.queue)} holds Job {job.name} back"
    builder.set_condition(ConditionType.QUEUED, "True", Reason.WAITING, message)
    # The Job controller deletes the pods of a suspended Job: what was known of them no longer
    # holds.
    builder.remove_conditions(
        ConditionType.PODS_READY, ConditionType.PROGRESS_KNOWN, ConditionType.CHECKPOINTS_SAVED
    )
    builder.set_phase("Queued")


def queue_name(queue: str | None) -> str:
    """Who holds a suspended Job back, for messages; a Job without queue names nobody."""
    return f"LocalQueue {queue}" if queue else "a queue that the Job does not name"


def report_admitted(builder: DecisionBuilder) -> None:
    """Report that the queue admitted the Job (batch/v1 Job, spec.suspend), if it ever held it."""
    if builder.condition_status(ConditionType.QUEUED) != "Unknown":
        message = "the queue admitted the job"
        builder.set_condition(ConditionType.QUEUED, "False", Reason.ADMITTED, message)
