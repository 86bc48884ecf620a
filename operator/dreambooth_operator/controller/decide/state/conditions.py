"""Lists of conditions, handled as k8s.io/apimachinery's api/meta does."""

from collections.abc import Sequence
from typing import Literal

from dreambooth_api.models.status import Condition

MAX_MESSAGE = 4096
"""Longest message of a condition, in characters."""
ConditionStatus = Literal["True", "False", "Unknown"]


def find_condition(conditions: Sequence[Condition], kind: str) -> Condition | None:
    """The condition of type `kind`; None when there is none (meta.FindStatusCondition)."""
    return next((condition for condition in conditions if condition.type == kind), None)


def condition_status(conditions: Sequence[Condition], kind: str) -> ConditionStatus:
    """The status of the condition of type `kind` (meta/v1 Condition); Unknown without one."""
    condition = find_condition(conditions, kind)
    return condition.status if condition else "Unknown"


def set_condition(conditions: Sequence[Condition], new: Condition) -> list[Condition]:
    """The conditions with `new` in place of the one of its type, or added at the end.

    `lastTransitionTime` of the old one is kept unless `status` changes (meta/v1 Condition).
    """
    old = find_condition(conditions, new.type)
    if old is None:
        return [*conditions, new]
    if old.status == new.status:
        new = new.model_copy(update={"last_transition_time": old.last_transition_time})
    return [new if condition is old else condition for condition in conditions]


def remove_conditions(conditions: Sequence[Condition], *kinds: str) -> list[Condition]:
    """The conditions without those of the types `kinds` (meta.RemoveStatusCondition)."""
    return [condition for condition in conditions if condition.type not in kinds]


def keep_transitions(old: Sequence[Condition], new: Sequence[Condition]) -> list[Condition]:
    """The conditions `new`, in the order of `old`, with its times where a status is the same.

    A condition that was removed and set again to the same status has had no transition, and
    writing another `lastTransitionTime` would change the status at every reconcile.
    """
    position = {condition.type: index for index, condition in enumerate(old)}
    ordered = sorted(new, key=lambda condition: position.get(condition.type, len(old)))
    kept = []
    for condition in ordered:
        before = find_condition(old, condition.type)
        if before is not None and before.status == condition.status:
            time = before.last_transition_time
            condition = condition.model_copy(update={"last_transition_time": time})
        kept.append(condition)
    return kept
