"""Rules between fields: a Python predicate, with its CEL expression and message, written once.

A method of a model that carries `@rule` is checked by pydantic after the fields, and is written
into the CRD as an entry of x-kubernetes-validations, which the API server checks on create and
update.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

_Predicate = TypeVar("_Predicate", bound=Callable[[Any], bool])


@dataclass(frozen=True)
class Rule:
    """What must hold between the fields of one model (x-kubernetes-validations)."""

    field: str
    """The field at fault, below the model: `globalBatch`, or `schedule.warmupSteps`."""

    cel: str
    """The rule in the Common Expression Language; `self` is the model."""

    message: str
    """What to do, for people."""

    holds: Callable[[Any], bool]
    """The rule in Python."""

    fault: Callable[[Any], str] | None = None
    """What breaks it in a model that does, such as the items of a list. The API server's messages
    are fixed, and lack it."""

    def as_validation(self) -> dict[str, str]:
        """The rule as an entry of x-kubernetes-validations."""
        return {"rule": self.cel, "message": self.message, "fieldPath": f".{self.field}"}

    def of(self, model: Any) -> Self:
        """The rule with a message that says what breaks it in this model."""
        if self.fault is None:
            return self
        what, separator, remedy = self.message.partition("; ")
        return replace(self, message=f"{what}, {self.fault(model)}{separator}{remedy}")


class BrokenRulesError(ValueError):
    """The rules that a model breaks; raised when it is validated."""

    def __init__(self, rules: list[Rule]) -> None:
        super().__init__("; ".join(f"{rule.field}: {rule.message}" for rule in rules))
        self.rules = rules


def rule(
    field: str, cel: str, message: str, fault: Callable[[Any], str] | None = None
) -> Callable[[_Predicate], _Predicate]:
    """Make a method of a model a rule about `field`.

    Args:
        field: The field at fault, below the model, as it is written in YAML.
        cel: The same condition in CEL, for x-kubernetes-validations.
        message: What is wrong, and after a semicolon what to do, for people: the same in the
            terminal and from the API server.
        fault: What breaks it in a model that does, for the terminal alone: it follows what is
            wrong, after a comma.
    """

    def mark(predicate: _Predicate) -> _Predicate:
        predicate.__dict__["rule"] = Rule(field, cel, message, predicate, fault)
        return predicate

    return mark


@functools.cache
def rules_of(model: type) -> tuple[Rule, ...]:
    """The rules of a model, in the order of the source.

    Those of its bases count where the class itself says `inherits_rules`. Others, such as a model
    with defaults filled in, were checked as their user wrote them.
    """
    # Cached, because every value of the model is checked by them.
    parts = reversed(model.__mro__) if vars(model).get("inherits_rules") else (model,)
    members = (member for part in parts for member in vars(part).values())
    marks = (vars(member).get("rule") for member in members if inspect.isfunction(member))
    return tuple(rule for rule in marks if isinstance(rule, Rule))
