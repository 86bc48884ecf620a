"""The core of the operator: from what was observed of a job to what has to be done about it."""

from datetime import datetime

from pydantic import ValidationError

from dreambooth_api.contract.conditions import ConditionType, Reason
from dreambooth_api.models.status import Counters, Status
from dreambooth_operator.controller.decide.attempt import advance_attempt
from dreambooth_operator.controller.decide.completion import fail, succeed
from dreambooth_operator.controller.decide.preflight import (
    advance_preflight,
    refuse_in_first_pod,
)
from dreambooth_operator.controller.decide.restart import start_next_attempt
from dreambooth_operator.controller.decide.state.builder import DecisionBuilder
from dreambooth_operator.controller.decide.state.decision import NOTHING, Decision
from dreambooth_operator.controller.decide.state.history import (
    count_outcome,
    drop_attempts_after,
    has_open_attempt,
    max_counters,
    newest_attempt,
    open_attempt,
    update_attempt,
)
from dreambooth_operator.controller.decide.state.observed import Observed, Policy
from dreambooth_operator.controller.kube.job_snapshots import JobSnapshot


def decide(observed: Observed, now: datetime, policy: Policy) -> Decision:
    """Decide what to do about a job.

    The decision depends on the status and on the children alone, so that the operator may die at
    any point. After a decision was carried out, deciding again yields nothing new.

    Args:
        observed: The job and its children.
        now: The time by the API server's clock, in UTC.
        policy: The operator's settings.
    """
    # The garbage collector deletes the children, and no new ones may be created.
    if observed.deleting:
        return NOTHING
    builder = DecisionBuilder(
        # Times in a status have whole seconds: without this, a status would differ from what was
        # written.
        observed,
        now.replace(microsecond=0),
        policy,
        _recover_status(observed),
    )
    _report_accepted(builder)
    record = newest_attempt(builder.status)
    if record and record.ended is None:
        advance_attempt(builder, record)
    # In the same round: the end of an attempt and the next step are one write of the status.
    if not has_open_attempt(builder.status) and not observed.blocked:
        _advance_between_attempts(builder)
    return builder.build()


def _recover_status(observed: Observed) -> Status:
    """The status as it was last written, corrected by what the children show.

    An attempt's Job is created before its record is written; and a status can be edited by hand.
    """
    status = observed.job.status or Status()
    job = max(observed.attempts, key=lambda job: job.attempt or 0, default=None)
    if job is None or job.attempt is None:
        return status
    if job.live:  # no later attempt starts before it has ended
        status = drop_attempts_after(status, job.attempt)
    record = newest_attempt(status)
    if record is None or record.number < job.attempt:
        status = open_attempt(status, job.attempt, job.created.replace(microsecond=0))
    elif record.ended is not None and job.live and record.number == job.attempt:
        status = update_attempt(status, ended=None, outcome=None, final=False)
    return _recover_counters(status, job)


def _recover_counters(status: Status, job: JobSnapshot) -> Status:
    """The status with the counters of the newest Job, and what was counted since it was created.

    Only preemptions are counted while an attempt goes on.
    """
    try:
        # Fails for a Job of another version, or one whose annotation was removed.
        counters = Counters.model_validate_json(job.counters)
    except ValidationError:
        return status
    known, record = status.counters or Counters(), status.attempts[-1]
    # The newest attempt's Job is gone: counters of an older Job may be lower than the status'.
    if record.number != job.attempt:
        counters = max_counters(known, counters)
    elif record.ended is not None:
        counters = count_outcome(counters, record.outcome)
    preemptions = max(known.preemptions, counters.preemptions)
    counters = counters.model_copy(update={"preemptions": preemptions})
    return status if counters == known else status.model_copy(update={"counters": counters})


def _report_accepted(builder: DecisionBuilder) -> None:
    """Report whether the job's children can be created.

    If not, an attempt that runs is still advanced; only the next one has to wait.
    """
    if blocked := builder.observed.blocked:
        builder.set_condition(ConditionType.ACCEPTED, "False", blocked.reason, blocked.message)
        if builder.status.phase is None:
            builder.set_phase("Pending")
        builder.requeue_after(blocked.retry_seconds)
        return
    message = "the job can be carried out as written"
    if builder.observed.defaulted:
        # A user may otherwise wonder where a Secret or a queue comes from.
        message += f"; {', '.join(builder.observed.defaulted)}: from the operator's defaults"
    builder.set_condition(ConditionType.ACCEPTED, "True", Reason.VALID, message)


def _advance_between_attempts(builder: DecisionBuilder) -> None:
    """End the job, or start its preflight or its next attempt, unless it is suspended."""
    record = newest_attempt(builder.status)
    if record is not None and record.outcome == "Succeeded":
        succeed(builder)
    elif record is not None and record.final:
        refuse_in_first_pod(builder, record)
        fail(builder, record.outcome or "Failed", record.reason)
    elif not advance_preflight(builder):
        return
    elif builder.job.spec.suspend:
        builder.set_phase("Suspended")
    else:
        start_next_attempt(builder)
