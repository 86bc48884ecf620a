"""Pydantic's errors as sentences: `spec.training.steps: must be at least 1 (got 0); raise it`."""

import difflib
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from dreambooth_api.codegen.schema import Schema, job_schema
from dreambooth_api.models.base import PATTERNS
from dreambooth_api.models.map_list import DuplicateKeyError
from dreambooth_api.models.rules import BrokenRulesError

Location = tuple[int | str, ...]
SHOWN_CHARACTERS = 60
MOST = 50
"""Problems that are said at once."""


def problems(error: ValidationError) -> list[str]:
    """Each problem of a job as one line: `field: what is wrong; what to do`."""
    details = error.errors()
    lines = [line for detail in details[:MOST] for line in _lines(detail)]
    more = len(details) - MOST
    return lines if more <= 0 else [*lines, f"job: {more} more problems; solve these first"]


def path_of(location: Location) -> str:
    """A location as a path: `spec.subjects[0].images`."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{_key(part)}" if part.isidentifier() else f"[{_key(part)}]"
    return path.lstrip(".") or "job"


def _key(key: str) -> str:
    """A key that could break the line, or the terminal, is escaped."""
    text = key if key.isprintable() else ascii(key)[1:-1]
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."


def _lines(detail: ErrorDetails) -> Iterator[str]:
    path = path_of(detail["loc"])
    broken = detail.get("ctx", {}).get("error")
    if isinstance(broken, BrokenRulesError):
        yield from (f"{path}.{rule.field}: {rule.message}" for rule in broken.rules)
    elif isinstance(broken, DuplicateKeyError):
        yield (
            f"{path}[{broken.index}]: another item has the same {broken.key}"
            f" ({_shown(broken.value)}); remove one of them"
        )
    elif detail["type"] == "extra_forbidden":
        yield f"{path}: unknown field; {_remedy(detail['loc'])}"
    elif detail["type"] == "missing":
        yield f"{path}: required; add it"
    else:
        what, remedy = _sentence(detail)
        yield f"{path}: must be {what} (got {_shown(detail['input'])}); {remedy}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."


def _bound(value: float) -> float:
    """1.0 is said as 1."""
    return int(value) if value == int(value) else value


SENTENCES: dict[str, Callable[[dict[str, Any]], tuple[str, str]]] = {
    "greater_than_equal": lambda ctx: (f"at least {_bound(ctx['ge'])}", "raise it"),
    "greater_than": lambda ctx: (f"greater than {_bound(ctx['gt'])}", "raise it"),
    "less_than_equal": lambda ctx: (f"at most {_bound(ctx['le'])}", "lower it"),
    "less_than": lambda ctx: (f"less than {_bound(ctx['lt'])}", "lower it"),
    "multiple_of": lambda ctx: (f"a multiple of {_bound(ctx['multiple_of'])}", "round it"),
    "literal_error": lambda ctx: (ctx["expected"].replace("'", ""), "choose one that is named"),
    "string_pattern_mismatch": lambda ctx: (PATTERNS[ctx["pattern"]], "write it in this form"),
    "string_too_long": lambda ctx: (f"at most {ctx['max_length']} characters long", "shorten it"),
    "string_too_short": lambda ctx: (f"at least {ctx['min_length']} characters long", "add to it"),
    "too_long": lambda ctx: (f"at most {ctx['max_length']} entries", "remove some"),
    "too_short": lambda ctx: (f"at least {ctx['min_length']} entries", "add one"),
    "int_type": lambda _: ("a whole number", "write digits without quotes"),
    "float_type": lambda _: ("a number", "write it without quotes"),
    "finite_number": lambda _: ("a finite number", "write one"),
    "bool_type": lambda _: ("true or false", "write one of them without quotes"),
    "string_type": lambda _: ("text", "put it in quotes if it is meant as text"),
    "list_type": lambda _: ("a list", "start each item with '- '"),
    "dict_type": lambda _: ("a mapping", "write `key: value` below it"),
    "model_type": lambda _: ("a mapping", "write its fields below it"),
}
"""By pydantic's error type: what the value must be, and what to do."""


def _sentence(detail: ErrorDetails) -> tuple[str, str]:
    known = SENTENCES.get(detail["type"])
    if known is None:
        return f"valid: {detail['msg'].lower()}", "correct it"
    return known(detail.get("ctx", {}))


def _remedy(location: Location) -> str:
    """What to do about an unknown field: the name that was meant, or the place where it belongs."""
    schema = job_schema()
    unknown = str(location[-1]).replace("_", "").lower()
    here = {name.lower(): name for name in _at(schema, location[:-1]).get("properties", {})}
    paths = sorted(_paths("spec", schema["properties"]["spec"]), key=_likeliest_last)
    elsewhere = {path.rpartition(".")[2].lower(): path for path in paths}
    for known in (here, elsewhere):
        meant = difflib.get_close_matches(unknown, known, n=1, cutoff=0.75)
        if meant:
            return f"did you mean {known[meant[0]]}?"
    return "remove it"


def _likeliest_last(path: str) -> tuple[bool, int]:
    """Most people who write `steps` mean those of the training."""
    return path.startswith("spec.training."), -path.count(".")


def _at(schema: Schema, location: Location) -> Schema:
    """The schema of what stands at a location."""
    for part in location:
        fields = schema.get("properties", {})
        schema = schema.get("items", {}) if isinstance(part, int) else fields.get(part, {})
    return schema


def _paths(path: str, schema: Schema) -> Iterator[str]:
    """Every field below a node."""
    for name, field in schema.get("properties", {}).items():
        child = field.get("items", field)
        yield f"{path}.{name}"
        yield from _paths(f"{path}.{name}" + ("[]" if child is not field else ""), child)
