"""The attempts in a status: each is opened once, closed once and counted once."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from dreambooth_api.contract.exit_codes import NOT_RETRYABLE, ExitCode
from dreambooth_api.contract.restart import (
    MAX_REFUSALS,
    MAX_TOTAL_REFUSALS,
    RestartPolicy,
    is_refusal,
)
from dreambooth_api.contract.stages import Outcome
from dreambooth_api.models.status import AttemptStatus, Counters, Status

# Bounds the size of the object, which every watch and every write of the status transfers.
MAX_ATTEMPTS = 20
"""Attempts in a status; older ones are dropped."""
MAX_REASON = 4096
"""Longest reason of an attempt, in characters."""
EXIT_CODES = range(256)
"""Those of Linux; a virtual node may report others, which the status cannot hold."""
# One failure may be the job's own; two attempts on one node make the node suspect.
UNRELIABLE_AFTER = 2
"""A node on which this many attempts ended is avoided."""
COUNTERS: dict[Outcome, str] = {
    "Failed": "failures",
    "Stalled": "stalls",
    "Disrupted": "disruptions",
    "Preempted": "preemptions",
}
"""The counter of each outcome that is counted."""


@dataclass(frozen=True)
class AttemptResult:
    """How an attempt ended or why it is stopped, and the rank at fault (status.attempts[])."""

    outcome: Outcome
    reason: str = ""
    final: bool = False
    """No restart can help."""
    rank: int | None = None
    node: str | None = None
    exit_code: int | None = None


def newest_attempt(status: Status) -> AttemptStatus | None:
    """The attempt that started last (status.attempts[-1]); None before the first."""
    return status.attempts[-1] if status.attempts else None


def has_open_attempt(status: Status) -> bool:
    """Whether the newest attempt has not ended (status.attempts[].ended is unset)."""
    record = newest_attempt(status)
    return record is not None and record.ended is None


def has_run(status: Status) -> bool:
    """Whether the job has ever run with all its ranks, or saved a checkpoint.

    From then on, no failure to start ends it: its steps would be lost.
    """
    return (
        status.last_checkpoint is not None
        or status.run_seconds > 0
        or any(record.running for record in status.attempts)
    )


def open_attempt(status: Status, number: int, started: datetime) -> Status:
    """The status with one more attempt (status.attempts); the first sets status.startTime."""
    records = [*status.attempts, AttemptStatus(number=number, started=started)][-MAX_ATTEMPTS:]
    first = status.start_time or started
    return status.model_copy(update={"attempts": records, "start_time": first})


def drop_attempts_after(status: Status, number: int) -> Status:
    """The status without the attempts after `number` (status.attempts[].number)."""
    records = [record for record in status.attempts if record.number <= number]
    return status.model_copy(update={"attempts": records})


def update_attempt(status: Status, **values: object) -> Status:
    """The status with fields of the newest attempt set (status.attempts[])."""
    record = status.attempts[-1].model_copy(update=values)
    return status.model_copy(update={"attempts": [*status.attempts[:-1], record]})


def record_result(status: Status, result: AttemptResult) -> Status:
    """The status with the result of the newest attempt, whose pods may still be stopping."""
    return update_attempt(
        status,
        outcome=result.outcome,
        final=result.final,
        reason=result.reason[:MAX_REASON],
        rank=result.rank,
        node=result.node,
        exit_code=result.exit_code if result.exit_code in EXIT_CODES else None,
    )


def close_attempt(
    status: Status, policy: RestartPolicy, ended: datetime, *, is_counted: bool = False
) -> Status:
    """The status after the newest attempt, whose result is recorded, has ended.

    Args:
        status: The status so far.
        policy: spec.runtime.restart; the attempt is final when its budget is used up.
        ended: When the pods of the attempt had ended.
        is_counted: Whether status.counters includes the attempt already.
    """
    record = status.attempts[-1]
    counters = status.counters or Counters()
    if not is_counted:
        counters = count_outcome(counters, record.outcome)
    if (
        record.outcome in ("Failed", "Stalled")
        and not record.final
        and policy.is_exhausted(counters.failures, counters.stalls)
    ):
        # The end of this attempt was not followed by a restart.
        restarts = counters.failures + counters.stalls - 1
        reason = (
            f"{record.reason}\nNot restarted: {restarts} of {policy.max_failures} restarts are used"
            " up (spec.runtime.restart.maxFailures)"
        )
        status = update_attempt(status, final=True, reason=reason[-MAX_REASON:])
    status = add_run_time(status, ended).model_copy(update={"counters": counters})
    return update_attempt(status, ended=ended)


def count_refusal(status: Status) -> Status:
    """The status after the newest attempt, which has ended, was counted as refused if it was.

    It is final once `MAX_REFUSALS` attempts were refused since the newest checkpoint, which must
    include one that this attempt saved (status.lastCheckpoint.refusals); or `MAX_TOTAL_REFUSALS`
    in all.
    """
    record, checkpoint = status.attempts[-1], status.last_checkpoint
    if checkpoint is None or not is_refusal(record.outcome, record.exit_code):
        return status
    refusals, total = checkpoint.refusals + 1, checkpoint.total_refusals + 1
    checkpoint = checkpoint.model_copy(update={"refusals": refusals, "total_refusals": total})
    status = status.model_copy(update={"last_checkpoint": checkpoint})
    if refusals < MAX_REFUSALS and total < MAX_TOTAL_REFUSALS:
        return status
    count = refusals if refusals >= MAX_REFUSALS else total
    since = f"the checkpoint of step {checkpoint.step}" if count == refusals else "the first one"
    reason = (
        f"{record.reason}\nNot restarted: {count} attempts have ended like this since {since}."
        " Once this is put right, a new job can go on from the last checkpoint (spec.resumeFrom)"
    )
    return update_attempt(status, final=True, reason=reason[-MAX_REASON:])


def record_checkpoint(status: Status) -> Status:
    """The status with the newest checkpoint noted in the newest attempt, which has ended.

    The wait before the next attempt depends on it (status.attempts[].checkpointStep).
    """
    checkpoint = status.last_checkpoint
    return update_attempt(status, checkpoint_step=checkpoint.step) if checkpoint else status


def add_run_time(status: Status, until: datetime) -> Status:
    """The status with the seconds that the newest attempt ran added (status.runSeconds).

    Only time with all ranks joined counts.
    """
    since = status.attempts[-1].running
    # Never negative: `running` may have been edited by hand.
    seconds = max(0, int((until - since).total_seconds())) if since else 0
    return status.model_copy(update={"run_seconds": status.run_seconds + seconds})


def count_outcome(counters: Counters, outcome: Outcome | None) -> Counters:
    """The counters after one more attempt with that outcome (status.counters)."""
    name = COUNTERS.get(outcome) if outcome else None
    return counters.model_copy(update={name: getattr(counters, name) + 1}) if name else counters


def max_counters(one: Counters, other: Counters) -> Counters:
    """The larger of each counter (status.counters): they only grow, so the larger is the newer."""
    names = Counters.model_fields
    return Counters(**{name: max(getattr(one, name), getattr(other, name)) for name in names})


def unreliable_nodes(records: Sequence[AttemptStatus]) -> list[str]:
    """Names of the nodes on which `UNRELIABLE_AFTER` attempts or more ended, sorted.

    Preemptions and suspensions say nothing about a node, nor do exit codes about the job. Too
    little GPU memory does: the job has trained on another GPU.
    """
    about_job = [code for code in NOT_RETRYABLE if code != ExitCode.OUT_OF_MEMORY]
    ended = ("Failed", "Stalled", "Disrupted")
    nodes = [
        record.node
        for record in records
        if record.node and record.outcome in ended and record.exit_code not in about_job
    ]
    return sorted({node for node in nodes if nodes.count(node) >= UNRELIABLE_AFTER})
