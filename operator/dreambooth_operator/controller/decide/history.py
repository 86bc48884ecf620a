"""The record of a job's attempts: opened once, closed once, counted once."""

from collections.abc import Sequence
from datetime import datetime

from dreambooth_api.models.runtime import Restart
from dreambooth_api.models.status import AttemptStatus, Counters, Status
from dreambooth_operator.controller.decide.failures import Verdict

KEPT = 20
"""Records in a status; the oldest are dropped."""
BAD_NODE_ENDS = 2
"""A node that ended this many attempts is avoided."""


def newest(status: Status) -> AttemptStatus | None:
    """The attempt that started last."""
    return status.attempts[-1] if status.attempts else None


def opened(status: Status, number: int, started: datetime) -> Status:
    """The status with one more attempt; its number tells when the first one started."""
    records = [*status.attempts, AttemptStatus(number=number, started=started)][-KEPT:]
    first = status.start_time or started
    return status.model_copy(update={"attempts": records, "start_time": first})


def up_to(status: Status, number: int) -> Status:
    """The status without attempts after that one."""
    records = [record for record in status.attempts if record.number <= number]
    return status.model_copy(update={"attempts": records})


def changed(status: Status, **values: object) -> Status:
    """The status with values of the newest attempt changed."""
    record = status.attempts[-1].model_copy(update=values)
    return status.model_copy(update={"attempts": [*status.attempts[:-1], record]})


def ending(status: Status, verdict: Verdict) -> Status:
    """The newest attempt is to end this way; its pods may still be stopping."""
    return changed(
        status,
        outcome=verdict.outcome,
        final=verdict.final,
        reason=verdict.reason[:4096],
        rank=verdict.rank,
        node=verdict.node,
        exit_code=verdict.exit_code,
    )


def closed(status: Status, policy: Restart, ended: datetime, *, is_counted: bool = False) -> Status:
    """The newest attempt, whose outcome is known, has ended: it is counted, unless it is already,
    and is the last one when the restart budget is used up.
    """
    record = status.attempts[-1]
    counters = status.counters or Counters()
    if not is_counted:
        counters = counted(counters, record.outcome)
    spent = counters.failures + counters.stalls
    if record.outcome in ("Failed", "Stalled") and not record.final and spent > policy.max_failures:
        told = f"{record.reason}\nNo restart: {spent - 1} of {policy.max_failures} were used."
        status = changed(status, final=True, reason=told[-4096:])
    status = stopped_running(status, ended).model_copy(update={"counters": counters})
    return changed(status, ended=ended)


def stopped_running(status: Status, now: datetime) -> Status:
    """The ranks of the newest attempt are no longer joined: what they ran is added up."""
    since = status.attempts[-1].running
    seconds = max(0, int((now - since).total_seconds())) if since else 0
    return status.model_copy(update={"run_seconds": status.run_seconds + seconds})


def counted(counters: Counters, outcome: str | None) -> Counters:
    """The counters after one more end of that kind."""
    kind = {"Failed": "failures", "Stalled": "stalls", "Disrupted": "disruptions"}.get(
        outcome or ""
    )
    if outcome == "Preempted":
        kind = "preemptions"
    return counters.model_copy(update={kind: getattr(counters, kind) + 1}) if kind else counters


def largest(one: Counters, other: Counters) -> Counters:
    """The larger of each counter: they only grow."""
    names = Counters.model_fields
    return Counters(**{name: max(getattr(one, name), getattr(other, name)) for name in names})


def wait_seconds(records: Sequence[AttemptStatus], policy: Restart) -> int:
    """Wait between the end of the newest attempt and the next one.

    Grows with each failure in a row; what was not the job's fault waits the shortest time.
    """
    return policy.policy().wait_seconds([record.outcome for record in records])


def bad_nodes(records: Sequence[AttemptStatus]) -> list[str]:
    """Nodes that ended two attempts or more, by name."""
    blamed = [r.node for r in records if r.node and r.outcome in ("Failed", "Stalled", "Disrupted")]
    return sorted({node for node in blamed if blamed.count(node) >= BAD_NODE_ENDS})
