"""The end of a job: Complete or Failed, and spec.runtime.ttlSecondsAfterFinished."""

from datetime import timedelta

from dreambooth_api.contract.conditions import ConditionType, Reason
from dreambooth_operator.controller.decide.progress import complete_progress, stopped_early
from dreambooth_operator.controller.decide.state.builder import DecisionBuilder
from dreambooth_operator.controller.decide.state.decision import DeleteDreamBoothJob
from dreambooth_operator.controller.decide.state.history import newest_attempt


def succeed(builder: DecisionBuilder) -> None:
    """End the job with the condition Complete (status.conditions) and the phase Succeeded."""
    builder.status = complete_progress(builder.status, builder.job)
    message, reason = "the model was trained and exported", Reason.TRAINED
    if early := stopped_early(builder.status):
        message, reason = f"{message}; {early}", Reason.STOPPED_EARLY
    builder.set_condition(ConditionType.COMPLETE, "True", reason, message)
    builder.set_phase("Succeeded")
    _finish(builder)


def fail(builder: DecisionBuilder, reason: str, message: str) -> None:
    """End the job as Failed, with reason and message of the condition (meta/v1 Condition)."""
    builder.set_condition(ConditionType.FAILED, "True", reason, message)
    builder.set_phase("Failed")
    _finish(builder)


def reopen(builder: DecisionBuilder) -> None:
    """Remove the end of a job that goes on (status.completionTime, Complete and Failed).

    Only a status that was edited by hand has one.
    """
    builder.remove_conditions(ConditionType.COMPLETE, ConditionType.FAILED)
    builder.update_status(completion_time=None)


def _finish(builder: DecisionBuilder) -> None:
    """Record when the job ended, and delete it when its time to live is over."""
    # As of the last attempt: the operator may have been down when it ended.
    record = newest_attempt(builder.status)
    ended = builder.status.completion_time or (record and record.ended) or builder.now
    builder.update_status(completion_time=ended)
    seconds = builder.runtime.ttl_seconds_after_finished
    if seconds is None:
        return
    left = (ended + timedelta(seconds=seconds) - builder.now).total_seconds()
    if left > 0:
        builder.requeue_after(left)
    else:
        builder.actions.append(DeleteDreamBoothJob())
