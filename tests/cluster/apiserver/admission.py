"""Admission of custom resources from a CRD's structural schema alone.

In the order of apiextensions-apiserver: nulls are dropped, unknown fields pruned (or refused, with
strict field validation), defaults filled in, values checked against the schema, then the CEL rules
evaluated. The words are those of the real server.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from tests.cluster.apiserver import cel
from tests.cluster.apiserver.errors import Cause, bad_value, go_value, not_supported, required
from tests.cluster.apiserver.resources import Json

NOT_CHECKED = Cause(
    "<nil>",
    "FieldValueInvalid",
    "Invalid value: null: some validation rules were not checked because the object was invalid; "
    "correct the existing errors to complete validation",
)
BLOCKING = {
    "FieldValueNotSupported",
    "FieldValueRequired",
    "FieldValueTooLong",
    "FieldValueTooMany",
    "FieldValueTypeInvalid",
}
"""After such a fault no CEL rule is evaluated."""
PRESERVE = "x-kubernetes-preserve-unknown-fields"


def as_json(value: Any) -> Any:
    """Go's JSON has one kind of number: 8.0 is written 8."""
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_json(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def with_defaults(schema: Json, value: Any) -> Any:
    """Nulls dropped and defaults filled in, at every level."""
    if isinstance(value, list):
        return [with_defaults(schema.get("items", {}), item) for item in value]
    if not isinstance(value, dict):
        return value
    present = {key: item for key, item in value.items() if item is not None}
    fields = schema.get("properties", {})
    defaults = {key: field["default"] for key, field in fields.items() if "default" in field}
    return {
        key: with_defaults(child(schema, key), item) for key, item in (defaults | present).items()
    }


def child(schema: Json, key: str) -> Json:
    """The schema of a field, or of a map's values."""
    found: Json = schema.get("properties", {}).get(key, schema.get("additionalProperties", {}))
    return found


def pruned(schema: Json, value: Any, path: str = "") -> tuple[Any, list[str]]:
    """The value without unknown fields, and their paths. ObjectMeta is not looked into."""
    if isinstance(value, list):
        items = [
            pruned(schema.get("items", {}), item, f"{path}[{index}]")
            for index, item in enumerate(value)
        ]
        return [kept for kept, _ in items], [name for _, names in items for name in names]
    if not isinstance(value, dict) or path == "metadata":
        return value, []
    described = schema.get("properties", {}).keys()
    if "additionalProperties" in schema:
        described = value.keys()
    result, unknown = {}, []
    for key, item in value.items():
        here = f"{path}.{key}".lstrip(".")
        if key in described:
            result[key], below = pruned(child(schema, key), item, here)
            unknown += below
        elif PRESERVE in schema:
            result[key] = item
        else:
            unknown.append(here)
    return result, unknown


def faults(
    schema: Json, content: Json, old: Json | None, known: Iterable[Cause] = ()
) -> list[Cause]:
    """All violations of the schema by a complete object, appended to those already `known`.

    `old` is its previous state in an update.
    """
    wrong = [*known, *wrong_values(schema, content)]
    if any(cause.reason in BLOCKING for cause in wrong):
        return [*wrong, NOT_CHECKED] if _has_rules(schema) else wrong
    return [*wrong, *broken_rules(schema, content, old)]


def wrong_values(schema: Json, value: Any, path: str = "") -> Iterator[Cause]:
    """What the structural schema says against a value and all below it."""
    if wrong := list(_wrong_type(schema, value, path)):
        yield from wrong
        yield from _not_in_enum(schema, value, path)
        return
    yield from _out_of_bounds(schema, value, path)
    if isinstance(value, dict):
        for name in schema.get("required", []):
            if name not in value:
                yield required(f"{path}.{name}".lstrip("."))
        for key, item in value.items():
            yield from wrong_values(child(schema, key), item, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from wrong_values(schema.get("items", {}), item, f"{path}[{index}]")
        yield from _duplicates(schema, value, path)


def _duplicates(schema: Json, items: list[Any], path: str) -> Iterator[Cause]:
    """Items of a map list that are no objects, or have the keys of an earlier one; or of a set."""
    if schema.get("x-kubernetes-list-type") == "set":
        for index, item in enumerate(items):
            if item in items[:index]:
                message = f"Duplicate value: {go_value(item)}"
                yield Cause(f"{path}[{index}]", "FieldValueDuplicate", message)
        return
    names = schema.get("x-kubernetes-list-map-keys", ())
    known: list[Json] = []
    for index, item in enumerate(items if names else ()):
        keys = {name: item[name] for name in names if isinstance(item, dict) and name in item}
        if names and not isinstance(item, dict):
            words = "must be an object for an array of list-type map"
            yield bad_value(f"{path}[{index}]", item, words)
        elif keys in known:
            message = f"Duplicate value: {go_value(keys)}"
            yield Cause(f"{path}[{index}]", "FieldValueDuplicate", message)
        known.append(keys)


def _wrong_type(schema: Json, value: Any, path: str) -> Iterator[Cause]:
    wanted = schema.get("type")
    given = _type_of(value)
    if schema.get("x-kubernetes-int-or-string"):
        wanted = "integer,string"
    if wanted is None or given in wanted or (wanted == "number" and given == "integer"):
        return
    if value is None and schema.get("nullable"):
        return
    form = schema.get("format")
    fraction = wanted == "integer" and given == "number" and form
    if fraction:
        given, wanted = "float64", str(form)
    message = f'Invalid value: "{given}": {path} in body must be of type {wanted}: "{given}"'
    yield Cause(path, "FieldValueTypeInvalid", message)
    if fraction:
        words = f"Checked value must be of type integer with format {form} in {path}"
        yield bad_value("<nil>", "", words)


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {str: "string", int: "integer", float: "number", dict: "object", list: "array"}
    return names.get(type(value), "null")


def _out_of_bounds(schema: Json, value: Any, path: str) -> Iterator[Cause]:
    yield from _not_in_enum(schema, value, path)
    if isinstance(value, str):
        yield from _wrong_text(schema, value, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _wrong_number(schema, value, path)
    elif isinstance(value, list):
        yield from _wrong_size(schema, value, path, "Items")
    elif isinstance(value, dict):
        yield from _wrong_size(schema, value, path, "Properties")


def _not_in_enum(schema: Json, value: Any, path: str) -> Iterator[Cause]:
    if "enum" in schema and value not in schema["enum"]:
        yield not_supported(path, value, schema["enum"])


def _wrong_text(schema: Json, value: str, path: str) -> Iterator[Cause]:
    if len(value) > schema.get("maxLength", len(value)):
        message = f"Too long: may not be more than {schema['maxLength']} bytes"
        yield Cause(path, "FieldValueTooLong", message)
    if len(value) < schema.get("minLength", 0):
        wanted = f"{path} in body should be at least {schema['minLength']} chars long"
        yield bad_value(path, value, wanted)
    # Go's `$` means the end of the text; Python's also stands before a last newline.
    if "pattern" in schema and not re.search(_go_pattern(schema["pattern"]), value):
        yield bad_value(path, value, f"{path} in body should match '{schema['pattern']}'")


def _go_pattern(pattern: str) -> str:
    return pattern.removesuffix("$") + r"\Z" if pattern.endswith("$") else pattern


def _wrong_number(schema: Json, value: float, path: str) -> Iterator[Cause]:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum", False), schema.get("exclusiveMaximum", False)
    if low is not None and (value < low or (above and value == low)):
        wanted = f"greater than{'' if above else ' or equal to'} {low:g}"
        yield bad_value(path, value, f"{path} in body should be {wanted}")
    if high is not None and (value > high or (below and value == high)):
        wanted = f"less than{'' if below else ' or equal to'} {high:g}"
        yield bad_value(path, value, f"{path} in body should be {wanted}")
    step = schema.get("multipleOf")
    if step and value % step:
        yield bad_value(path, value, f"{path} in body should be a multiple of {step:g}")


def _wrong_size(schema: Json, value: Any, path: str, what: str) -> Iterator[Cause]:
    most, least = schema.get(f"max{what}"), schema.get(f"min{what}", 0)
    if most is not None and len(value) > most:
        message = f"Too many: {len(value)}: must have at most {most} items"
        yield Cause(path, "FieldValueTooMany", message)
    if len(value) < least:
        wanted = f"{path} in body should have at least {least} {what.lower()}"
        yield bad_value(path, len(value), wanted)


def _has_rules(schema: Json) -> bool:
    below = [*schema.get("properties", {}).values()]
    below += [schema[key] for key in ("items", "additionalProperties") if key in schema]
    return "x-kubernetes-validations" in schema or any(
        _has_rules(node) for node in below if isinstance(node, dict)
    )


def broken_rules(schema: Json, value: Any, old: Any, path: str = "") -> Iterator[Cause]:
    """What the rules of a node and of all below it say."""
    for rule in schema.get("x-kubernetes-validations", []):
        if old is None and cel.is_transition(rule["rule"]):
            continue
        why = cel.broken(rule["rule"], value, old, schema)
        if why is not None:
            yield _rule_fault(rule, value, path, why)
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from broken_rules(schema.get("items", {}), item, None, f"{path}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            before = old.get(key) if isinstance(old, dict) else None
            here = f"{path}.{key}".lstrip(".")
            yield from broken_rules(child(schema, key), item, before, here)


def default_faults(schema: Json, path: str) -> Iterator[Cause]:
    """What a schema says against its own defaults: they have to hold as they are written."""
    if "default" in schema:
        default = schema["default"]
        for cause in [*wrong_values(schema, default), *broken_rules(schema, default, default)]:
            below = f".{cause.field}" if cause.field and cause.reason in BLOCKING else ""
            yield Cause(f"{path}.default{below}", cause.reason, cause.message)
    for name, node in schema.get("properties", {}).items():
        yield from default_faults(node, f"{path}.properties[{name}]")
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            yield from default_faults(schema[name], f"{path}.{name}")


def _rule_fault(rule: Json, value: Any, path: str, why: str) -> Cause:
    message = rule.get("message", f"failed rule: {rule['rule']}")
    field = (path + rule.get("fieldPath", "")).lstrip(".")
    if why:
        return bad_value(field, _type_of(value), f"{why} evaluating rule: {message}")
    if "fieldPath" in rule:
        return Cause(field, "FieldValueInvalid", f"Invalid value: {message}")
    return bad_value(field, _type_of(value), message)
