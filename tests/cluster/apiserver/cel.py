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
# A name before a parenthesis is a function's: the whole value is seen.
_FIELD = re.compile(r"\b(self|oldSelf)\b(?:\.([A-Za-z_]\w*)\b(?!\s*\())?")
_NO_MEMBER = re.compile(r"no such member in mapping: '(\w+)'")
_TEXT = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")

_answers: dict[tuple[str, str], str | None] = {}
_REMEMBERED = 200_000


def is_transition(rule: str) -> bool:
    """Transition rules compare with the old value; they are skipped where there is none."""
    return any(name == "oldSelf" for name, _ in _FIELD.findall(_TEXT.sub("''", rule)))


class _MapList(celtypes.ListType):
    """A list of `x-kubernetes-list-type: map` or `set`: equal to another in any order."""

    def __eq__(self, other: Any) -> bool:
        return len(self) == len(other) and all(item in other for item in self)


def broken(rule: str, value: Any, old: Any, schema: Any = None) -> str | None:
    """None when the rule holds; else "" or, for a rule that cannot be evaluated, why.

    `schema` is that of the value.
    """
    seen = _seen(rule, value, old)
    key = rule, json.dumps(seen, sort_keys=True)
    if key not in _answers:
        if len(_answers) >= _REMEMBERED:
            _answers.clear()
        _answers[key] = _evaluate(rule, seen, schema or {})
    return _answers[key]


def _evaluate(rule: str, seen: dict[str, Any], schema: dict[str, Any]) -> str | None:
    names = {name: _typed(value, schema) for name, value in seen.items()}
    try:
        return None if _compiled(rule).evaluate(names) else ""
    except celpy.CELEvalError as error:
        return _NO_MEMBER.sub(r"no such key: \1", str(error.args[0]))


def _typed(value: Any, schema: Any) -> Any:
    """The value as CEL sees it."""
    schema = schema if isinstance(schema, dict) else {}
    if isinstance(value, dict):
        others, fields = schema.get("additionalProperties"), schema.get("properties", {})
        return celtypes.MapType(
            {
                celtypes.StringType(key): _typed(each, fields.get(key, others))
                for key, each in value.items()
            }
        )
    if isinstance(value, list):
        unordered = schema.get("x-kubernetes-list-type") in ("map", "set")
        kind = _MapList if unordered else celtypes.ListType
        return kind([_typed(each, schema.get("items")) for each in value])
    if schema.get("type") == "number" and type(value) is int:
        return celtypes.DoubleType(value)  # as it is written: `learningRate: 1`
    return celpy.json_to_cel(value)


@cache
def _compiled(rule: str) -> celpy.Runner:
    return _environment.program(_environment.compile(rule), functions=_STRINGS)


def _seen(rule: str, value: Any, old: Any) -> dict[str, Any]:
    """`self` and `oldSelf`, where there is one, with no more than what the rule can see."""
    fields = _fields(rule)
    seen = {"self": _part(value, fields["self"])}
    return seen if old is None else {**seen, "oldSelf": _part(old, fields["oldSelf"])}


def _part(value: Any, fields: frozenset[str]) -> Any:
    if "" in fields or not isinstance(value, dict):
        return value
    return {field: value[field] for field in fields if field in value}


@cache
def _fields(rule: str) -> dict[str, frozenset[str]]:
    """The fields of `self` and of `oldSelf` that a rule names; "" where it names the whole."""
    found = _FIELD.findall(_TEXT.sub("''", rule))
    return {
        name: frozenset(field for one, field in found if one == name)
        for name in ("self", "oldSelf")
    }
