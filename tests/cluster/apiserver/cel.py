"""CEL rules of custom resources (`x-kubernetes-validations`), compiled once and remembered.

A rule sees nothing but `self` and `oldSelf`. So its answer is remembered by the JSON of just those
of their fields that it names; writing a status evaluates no rule of the spec again.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import celpy
from celpy import celtypes

_environment = celpy.Environment()
_STRINGS = {
    "lowerAscii": lambda text: celtypes.StringType(
        re.sub("[A-Z]", lambda letter: letter.group().lower(), text)
    ),
    "replace": lambda text, old, new: celtypes.StringType(str.replace(text, old, new)),
    # celpy's own is lost when strings are added.
    "contains": lambda text, part: celtypes.BoolType(part in text),
}
"""What our rules use of CEL's strings extension, which Kubernetes enables."""
_FIELD = re.compile(r"\b(self|oldSelf)\b(?:\.([A-Za-z_]\w*))?")
_TEXT = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")

_answers: dict[tuple[str, str], str | None] = {}
_REMEMBERED = 200_000


def is_transition(rule: str) -> bool:
    """Transition rules compare with the old value; they are skipped where there is none."""
    return any(name == "oldSelf" for name, _ in _FIELD.findall(_TEXT.sub("''", rule)))


def broken(rule: str, value: Any, old: Any) -> str | None:
    """None when the rule holds; else "" or, for a rule that cannot be evaluated, why."""
    key = rule, _seen(rule, value, old)
    if key not in _answers:
        if len(_answers) >= _REMEMBERED:
            _answers.clear()
        _answers[key] = _evaluate(rule, value, old)
    return _answers[key]


def _evaluate(rule: str, value: Any, old: Any) -> str | None:
    names = {"self": celpy.json_to_cel(value)}
    if old is not None:
        names["oldSelf"] = celpy.json_to_cel(old)
    try:
        return None if _compiled(rule).evaluate(names) else ""
    except celpy.CELEvalError as error:
        return str(error.args[0])


@cache
def _compiled(rule: str) -> celpy.Runner:
    return _environment.program(_environment.compile(rule), functions=_STRINGS)


def _seen(rule: str, value: Any, old: Any) -> str:
    """The JSON of all that the rule can see."""
    seen = []
    for name, field in _fields(rule):
        whole = value if name == "self" else old
        part = whole.get(field) if field and isinstance(whole, dict) else whole
        seen.append(json.dumps(part, sort_keys=True))
    return "\n".join(seen)


@cache
def _fields(rule: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(set(_FIELD.findall(_TEXT.sub("''", rule)))))
