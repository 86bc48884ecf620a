"""Conditions of a DreamBoothJob, by the Kubernetes conventions."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from dreambooth_api.models.status import Condition

ACCEPTED = "Accepted"
"""The job can be carried out as it is written."""
PREFLIGHT_PASSED = "PreflightPassed"
"""Storage, images, model and prompts were looked at, and nothing is wrong."""
QUEUED = "Queued"
"""A queue holds the pods back."""
PODS_READY = "PodsReady"
"""All ranks have joined."""
PROGRESS_KNOWN = "ProgressKnown"
"""Rank 0 answers when it is asked for its progress."""
COMPLETE = "Complete"
FAILED = "Failed"

MESSAGE_LIMIT = 4096
Truth = Literal["True", "False", "Unknown"]


def find(conditions: Sequence[Condition], kind: str) -> Condition | None:
    """The condition of that type."""
    return next((condition for condition in conditions if condition.type == kind), None)


def truth(conditions: Sequence[Condition], kind: str) -> Truth:
    """Its status; Unknown when there is none."""
    found = find(conditions, kind)
    return found.status if found else "Unknown"


def with_condition(conditions: Sequence[Condition], new: Condition) -> list[Condition]:
    """The conditions with one of them set. `lastTransitionTime` moves only when `status` does."""
    old = find(conditions, new.type)
    if old is None:
        return [*conditions, new]
    if old.status == new.status:
        new = new.model_copy(update={"last_transition_time": old.last_transition_time})
    return [new if condition is old else condition for condition in conditions]


def without(conditions: Sequence[Condition], *kinds: str) -> list[Condition]:
    """The conditions without those types."""
    return [condition for condition in conditions if condition.type not in kinds]


def condition(
    kind: str, status: Truth, reason: str, message: str, generation: int, now: datetime
) -> Condition:
    """A condition as it is seen now."""
    return Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message[:MESSAGE_LIMIT],
        observed_generation=generation,
        last_transition_time=now,
    )
