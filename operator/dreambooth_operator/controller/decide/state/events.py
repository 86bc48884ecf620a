"""Kubernetes events about what a user would want to know.

Each is about one change of the status, so that none is repeated.
"""

from collections.abc import Iterator
from typing import Literal

from dreambooth_api.contract.conditions import ConditionType, Reason
from dreambooth_api.models.status import AttemptStatus, Condition, Status
from dreambooth_operator.controller.decide.state.conditions import condition_status, find_condition
from dreambooth_operator.controller.decide.state.decision import Event
from dreambooth_operator.controller.decide.state.history import newest_attempt

EventType = Literal["Normal", "Warning"]


def events_between(old: Status, new: Status) -> Iterator[Event]:
    """The events of a change of status (core/v1 Event)."""
    yield from _condition_events(old, new)
    yield from _attempt_events(old, new)
    if new.phase != old.phase:
        yield from _phase_events(old, new)


def _condition_events(old: Status, new: Status) -> Iterator[Event]:
    for condition in new.conditions:
        yield from _obstacle_event(find_condition(old.conditions, condition.type), condition)
        if condition.status == condition_status(old.conditions, condition.type):
            continue
        match condition.type, condition.status:
            case (
                (
                    ConditionType.ACCEPTED
                    | ConditionType.CHECKPOINTS_SAVED
                    | ConditionType.PUSHED_TO_HUB
                ),
                "False",
            ):
                yield Event("Warning", condition.reason, condition.message)
            case ConditionType.PREFLIGHT_PASSED, "True":
                yield Event("Normal", "PreflightPassed", condition.message)
            case ConditionType.PREFLIGHT_PASSED, "False":
                yield Event("Warning", "PreflightFailed", condition.message)


def _obstacle_event(old: Condition | None, new: Condition) -> Iterator[Event]:
    """Something outside the job holds its pods up: the condition keeps its status meanwhile."""
    if new.reason in (Reason.FAILED_CREATE, Reason.PODS_LEFT) and (
        old is None or old.reason != new.reason
    ):
        yield Event("Warning", new.reason, new.message)


def _attempt_events(old: Status, new: Status) -> Iterator[Event]:
    before = {record.number: record for record in old.attempts}
    for record in new.attempts:
        known = before.get(record.number)
        if known is None:
            yield Event("Normal", "AttemptStarted", f"Attempt {record.number} was started")
        if record.outcome in (None, "Succeeded"):  # the phase has an event for success
            continue
        if known is None or known.outcome != record.outcome:
            yield _end_event(record)
    yield from _preemption_event(old, new)


def _end_event(record: AttemptStatus) -> Event:
    message = f"Attempt {record.number}"
    if record.rank is not None:
        message += f", rank {record.rank} on {record.node or 'no node'}"
    if record.exit_code is not None:
        message += f", exit code {record.exit_code}"
    kind: EventType = "Normal" if record.outcome == "Suspended" else "Warning"
    return Event(kind, f"Attempt{record.outcome}", f"{message}: {record.reason}".rstrip(": "))


def _preemption_event(old: Status, new: Status) -> Iterator[Event]:
    """A queue took the nodes back, and the attempt waits to go on."""
    record = newest_attempt(new)
    before, after = (each.counters.preemptions if each.counters else 0 for each in (old, new))
    # An attempt that ended as Preempted has an event of its own.
    ended = any(each.outcome == "Preempted" for each in new.attempts if each not in old.attempts)
    if record is not None and after > before and not ended:
        message = f"The queue took the nodes of attempt {record.number} back"
        yield Event("Warning", "Preempted", message)


def _phase_events(old: Status, new: Status) -> Iterator[Event]:
    if new.phase == "Running":
        yield Event("Normal", "Running", "All ranks have joined")
    elif new.phase == "Queued":
        queued = find_condition(new.conditions, ConditionType.QUEUED)
        yield Event("Normal", "Queued", queued.message if queued else "")
    elif new.phase == "Suspended":
        yield Event("Normal", "Suspended", "Suspended, as spec.suspend is true")
    elif new.phase == "Succeeded":
        export = new.artifacts.export if new.artifacts else None
        yield Event("Normal", "Succeeded", f"The model is in {export}")
    elif new.phase == "Failed":
        failed = find_condition(new.conditions, ConditionType.FAILED)
        yield Event("Warning", "Failed", failed.message if failed else "")
    if old.phase == "Suspended" and new.phase not in ("Succeeded", "Failed"):
        yield Event("Normal", "Resumed", "Resumed, as spec.suspend is false")
