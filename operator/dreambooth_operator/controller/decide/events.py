"""Kubernetes events for what a person would want to see: each tells of one change of the status, so
none is repeated.
"""

from collections.abc import Iterator

from dreambooth_api.models.status import AttemptStatus, Status
from dreambooth_operator.controller.decide import conditions
from dreambooth_operator.controller.decide.conditions import find, truth
from dreambooth_operator.controller.decide.decision import Event
from dreambooth_operator.controller.decide.history import newest

MESSAGE_LIMIT = 1024
"""core/v1 Event.message."""


def events_between(old: Status, new: Status) -> Iterator[Event]:
    """The events of a change of status."""
    yield from _conditions(old, new)
    yield from _attempts(old, new)
    if new.phase != old.phase:
        yield from _phase(old, new)


def _conditions(old: Status, new: Status) -> Iterator[Event]:
    accepted = find(new.conditions, conditions.ACCEPTED)
    if accepted and accepted.status == "False" != truth(old.conditions, conditions.ACCEPTED):
        yield _event("Warning", accepted.reason, accepted.message)
    preflight = find(new.conditions, conditions.PREFLIGHT_PASSED)
    if preflight and preflight.status != truth(old.conditions, conditions.PREFLIGHT_PASSED):
        if preflight.status == "True":
            yield _event("Normal", "PreflightPassed", preflight.message)
        elif preflight.status == "False":
            yield _event("Warning", "PreflightFailed", preflight.message)


def _attempts(old: Status, new: Status) -> Iterator[Event]:
    before = {record.number: record for record in old.attempts}
    for record in new.attempts:
        known = before.get(record.number)
        if known is None:
            yield _event("Normal", "AttemptStarted", f"Attempt {record.number} was started")
        ended = record.outcome not in (None, "Succeeded")  # that the job tells
        if ended and (known is None or known.outcome != record.outcome):
            yield _event(*_end(record))
    yield from _preemption(old, new)


def _preemption(old: Status, new: Status) -> Iterator[Event]:
    """A queue took the nodes back, and the attempt waits to go on."""
    record = newest(new)
    was, now = (status.counters.preemptions if status.counters else 0 for status in (old, new))
    ended = any(each.outcome == "Preempted" for each in new.attempts if each not in old.attempts)
    if record is not None and now > was and not ended:
        yield _event("Warning", "Preempted", f"Attempt {record.number} lost its place to others")


def _end(record: AttemptStatus) -> tuple[str, str, str]:
    """(type, reason, message) of how an attempt ended."""
    kind = "Normal" if record.outcome == "Suspended" else "Warning"
    told = f"Attempt {record.number}"
    if record.rank is not None:
        told += f", rank {record.rank} on {record.node or 'no node'}"
    if record.exit_code is not None:
        told += f", exit code {record.exit_code}"
    return kind, f"Attempt{record.outcome}", f"{told}: {record.reason}".rstrip(": ")


def _phase(old: Status, new: Status) -> Iterator[Event]:
    if new.phase == "Running":
        yield _event("Normal", "Running", "All ranks have joined")
    elif new.phase == "Queued":
        yield _event("Normal", "Queued", "Waiting in the queue")
    elif new.phase == "Suspended":
        yield _event("Normal", "Suspended", "Stopped, as spec.suspend is true")
    elif new.phase == "Succeeded":
        export = new.artifacts.export if new.artifacts else None
        yield _event("Normal", "Succeeded", f"The model is in {export}")
    elif new.phase == "Failed":
        failed = find(new.conditions, conditions.FAILED)
        yield _event("Warning", "Failed", failed.message if failed else "")
    if old.phase == "Suspended" and new.phase not in ("Succeeded", "Failed"):
        yield _event("Normal", "Resumed", "Going on, as spec.suspend is false")


def _event(kind: str, reason: str, message: str) -> Event:
    return Event("Normal" if kind == "Normal" else "Warning", reason, message[:MESSAGE_LIMIT])
