"""The API server's admission of custom resources, from the generated CRD alone.

In the order of apiextensions-apiserver: nulls are dropped, defaults filled in, unknown fields
refused (strict field validation), values checked against the structural schema, then the CEL rules
evaluated.
"""

import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import celpy
import jsonschema
import pytest
import yaml
from celpy import celtypes

CRD = Path(__file__).parents[2] / "crds" / "dreambooth.dev_dreamboothjobs.yaml"

Schema = dict[str, Any]
Admit = Callable[..., list[str]]

CEL = celpy.Environment()
STRINGS = {
    "lowerAscii": lambda text: celtypes.StringType(
        re.sub("[A-Z]", lambda letter: letter.group().lower(), text)
    ),
    "replace": lambda text, old, new: celtypes.StringType(str.replace(text, old, new)),
    # celpy's own is lost when strings are added.
    "contains": lambda text, part: celtypes.BoolType(part in text),
}
"""What the rules use of CEL's strings extension, which Kubernetes enables."""


def full_match(_: Any, pattern: str, text: Any, __: Any) -> Iterator[jsonschema.ValidationError]:
    """Go's `$` means the end of the text; Python's also stands before a last newline."""
    if isinstance(text, str) and not re.fullmatch(pattern, text):
        yield jsonschema.ValidationError(f"does not match {pattern}")


def int_or_string(
    _: Any, wanted: bool, value: Any, __: Any
) -> Iterator[jsonschema.ValidationError]:
    if wanted and (isinstance(value, bool) or not isinstance(value, int | str)):
        yield jsonschema.ValidationError("is neither a whole number nor text")


# Draft 4 is the one with OpenAPI 3.0's boolean exclusiveMinimum.
StructuralValidator = jsonschema.validators.extend(
    jsonschema.Draft4Validator,
    {"pattern": full_match, "x-kubernetes-int-or-string": int_or_string},
)


@pytest.fixture(scope="session")
def schema() -> Schema:
    (version,) = yaml.safe_load(CRD.read_text())["spec"]["versions"]
    return version["schema"]["openAPIV3Schema"]  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def store(schema: Schema) -> Callable[[Any], Any]:
    """An object as the API server stores it, with all defaults."""
    return lambda job: as_stored(schema, job)


@pytest.fixture(scope="session")
def admit(schema: Schema) -> Admit:
    """Admit an object: the fields that it is refused for, empty when it is accepted."""

    def admitted(job: Any, old: Any = None) -> list[str]:
        if not isinstance(job, dict):
            return ["job"]
        new = as_stored(schema, job)
        missing = [key for key in ("apiVersion", "kind", "metadata") if key not in new]
        wrong = missing + wrong_kind(new) + unknown_fields(schema, new) + wrong_values(schema, new)
        return wrong or broken_rules(schema, new, as_stored(schema, old) if old else None)

    return admitted


def as_stored(schema: Schema, job: Any) -> Any:
    return with_defaults(schema, as_json(job))


def as_json(value: Any) -> Any:
    """Go's JSON has one kind of number: 8.0 is written 8."""
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_json(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def with_defaults(schema: Schema, value: Any) -> Any:
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


def child(schema: Schema, key: str) -> Schema:
    found: Schema = schema.get("properties", {}).get(key, schema.get("additionalProperties", {}))
    return found


def wrong_kind(job: Any) -> list[str]:
    """An API server finds the resource by these, so another value never reaches the schema."""
    wanted = {"apiVersion": "dreambooth.dev/v1alpha1", "kind": "DreamBoothJob"}
    return [key for key, value in wanted.items() if key in job and job[key] != value]


def unknown_fields(schema: Schema, value: Any, path: str = "") -> list[str]:
    if isinstance(value, list):
        items = schema.get("items", {})
        return [p for i, v in enumerate(value) for p in unknown_fields(items, v, f"{path}[{i}]")]
    is_known = "properties" in schema or schema.get("type") == "object"
    if not isinstance(value, dict) or not is_known or path == "metadata":
        return []
    fields = schema.get("properties", {})
    free = "additionalProperties" in schema or "x-kubernetes-preserve-unknown-fields" in schema
    found = []
    for key, item in value.items():
        here = f"{path}.{key}".lstrip(".")
        if key in fields:
            found += unknown_fields(fields[key], item, here)
        elif not free:
            found.append(here)
    return found


def wrong_values(schema: Schema, job: Any) -> list[str]:
    return [*{blamed_field(error): None for error in StructuralValidator(schema).iter_errors(job)}]


def blamed_field(error: jsonschema.ValidationError) -> str:
    path = path_of(error.absolute_path)
    if error.validator != "required":
        return path
    (name,) = re.findall(r"'(.+)' is a required property", error.message)
    return f"{path}.{name}".lstrip(".")


def path_of(parts: Any) -> str:
    path = ""
    for part in parts:
        plain = isinstance(part, str) and part.isidentifier()
        path += f".{part}" if plain else f"[{part}]"
    return path.lstrip(".")


def broken_rules(schema: Schema, value: Any, old: Any, path: str = "") -> list[str]:
    """The fields blamed by the rules of a node and of all below it."""
    found = [
        path + rule["fieldPath"]
        for rule in schema.get("x-kubernetes-validations", [])
        if ("oldSelf" not in rule["rule"] or old is not None)
        and not holds(rule["rule"], value, old)
    ]
    if isinstance(value, list):
        items = schema.get("items", {})
        below = [(items, item, None, f"{path}[{i}]") for i, item in enumerate(value)]
    elif isinstance(value, dict):
        before = old or {}
        below = [
            (child(schema, key), item, before.get(key), f"{path}.{key}".lstrip("."))
            for key, item in value.items()
        ]
    else:
        below = []
    return found + [wrong for node in below for wrong in broken_rules(*node)]


@cache
def compiled(rule: str) -> celpy.Runner:
    return CEL.program(CEL.compile(rule), functions=STRINGS)


def holds(rule: str, value: Any, old: Any) -> bool:
    names = {"self": celpy.json_to_cel(value)}
    if old is not None:
        names["oldSelf"] = celpy.json_to_cel(old)
    return bool(compiled(rule).evaluate(names))
