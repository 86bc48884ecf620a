"""Pydantic's errors as messages: `spec.training.steps: must be at least 1 (got 0); raise it`."""

import difflib
import re
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from dreambooth_api.codegen.schema import Schema, job_schema
from dreambooth_api.parsing.quote import quoted, shortened
from dreambooth_api.schema.base import PATTERNS
from dreambooth_api.schema.map_list import DuplicateKeyError
from dreambooth_api.schema.rules import BrokenRulesError, Rule

Location = tuple[int | str, ...]
# A long list whose items are all wrong has an error for each; nobody reads thousands.
MAX_ERRORS = 50
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
"""The name of a model on the Hugging Face hub: owner/name."""
OTHER_NAMES = {"class": "classNoun", "gpus": "gpusPerNode", "lr": "learningRate"}
"""Fields by what people call them, where the spelling is too different to guess."""


def messages(error: ValidationError) -> list[str]:
    """One line for each error of a job: `field: what is wrong; what to do`.

    Errors beyond the first `MAX_ERRORS` are only counted.
    """
    details = error.errors()
    lines = [line for detail in details[:MAX_ERRORS] for line in _lines(detail)]
    more = len(details) - MAX_ERRORS
    return lines if more <= 0 else [*lines, f"job: {more} more errors; correct these first"]


def rule_message(location: Location, rule: Rule) -> str:
    """The line for a rule that the model at a location breaks."""
    return f"{_path(location)}.{rule.field}: {rule.message}"


def _path(location: Location) -> str:
    """A location as a path: `spec.subjects[0].images`."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            key = shortened(part if part.isprintable() else ascii(part)[1:-1])
            path += f".{key}" if part.isidentifier() else f"[{key}]"
    return path.lstrip(".") or "job"


def _lines(detail: ErrorDetails) -> Iterator[str]:
    path = _path(detail["loc"])
    broken = detail.get("ctx", {}).get("error")
    if isinstance(broken, BrokenRulesError):
        yield from (rule_message(detail["loc"], rule) for rule in broken.rules)
    elif isinstance(broken, DuplicateKeyError):
        yield (
            f"{path}[{broken.index}]: another item has the same {broken.key}"
            f" ({quoted(broken.value)}); remove one of them"
        )
    elif detail["type"] == "extra_forbidden":
        yield f"{path}: unknown field; {_remedy(detail['loc'])}"
    elif detail["type"] == "missing":
        yield f"{path}: required; add it"
    else:
        known, context = SENTENCES.get(detail["type"]), detail.get("ctx", {})
        what, remedy = known(context) if known else (f"valid: {detail['msg']}", "correct it")
        remedy = _remedy_of_uri(context.get("pattern"), detail["input"]) or remedy
        yield f"{path}: must be {what} (got {quoted(detail['input'])}); {remedy}"


def _remedy_of_uri(pattern: str | None, value: Any) -> str | None:
    """Advice about a model or a folder that lacks only its scheme; None for anything else."""
    example = PATTERNS.get(pattern or "", "")
    if not isinstance(value, str) or "file:///" not in example or not value.isprintable():
        return None
    if value.startswith("/"):
        return f"write file://{quoted(value)[1:-1]}"
    if "hf://" in example and HUB_NAME.fullmatch(value):
        return f"write hf://{value}, or an absolute path"
    return None


def _bound(value: float) -> float:
    """A bound without an empty fraction: 1.0 is 1."""
    return int(value) if value == int(value) else value


SENTENCES: dict[str, Callable[[dict[str, Any]], tuple[str, str]]] = {
    "greater_than_equal": lambda ctx: (f"at least {_bound(ctx['ge'])}", "raise it"),
    "greater_than": lambda ctx: (f"greater than {_bound(ctx['gt'])}", "raise it"),
    "less_than_equal": lambda ctx: (f"at most {_bound(ctx['le'])}", "lower it"),
    "less_than": lambda ctx: (f"less than {_bound(ctx['lt'])}", "lower it"),
    "multiple_of": lambda ctx: (f"a multiple of {_bound(ctx['multiple_of'])}", "round it"),
    "literal_error": lambda ctx: (ctx["expected"].replace("'", ""), "choose a listed value"),
    "string_pattern_mismatch": lambda ctx: (PATTERNS[ctx["pattern"]], "write it in this form"),
    "string_too_long": lambda ctx: (f"at most {ctx['max_length']} characters long", "shorten it"),
    "string_too_short": lambda ctx: (f"at least {ctx['min_length']} characters long", "add to it"),
    "too_long": lambda ctx: (f"at most {ctx['max_length']} entries", "remove some"),
    "too_short": lambda ctx: (f"at least {ctx['min_length']} entries", "add one"),
    "too_deep": lambda ctx: (f"nested at most {ctx['max_depth']} levels deep", "flatten it"),
    "int_type": lambda _: ("a whole number", "write digits without quotes"),
    "float_type": lambda _: ("a number", "write it without quotes"),
    "finite_number": lambda _: ("a finite number", "write a number"),
    "bool_type": lambda _: ("true or false", "write one of them without quotes"),
    "string_type": lambda _: ("text", "put it in quotes if it is meant as text"),
    "list_type": lambda _: ("a list", "start each item with '- '"),
    "dict_type": lambda _: ("a mapping", "write `key: value` below it"),
    "model_type": lambda _: ("a mapping", "write its fields below it"),
}
"""By pydantic's error type: what the value must be, and what to do."""


def _remedy(location: Location) -> str:
    """Advice about an unknown field: the closest name at this place, else anywhere in the spec."""
    # From the schema and not from the models: its names and nesting are those of the file.
    schema = job_schema()
    unknown = str(location[-1]).replace("_", "").lower()
    unknown = OTHER_NAMES.get(unknown, unknown).lower()
    here = {name.lower(): name for name in _at(schema, location[:-1]).get("properties", {})}
    paths = sorted(_paths("spec", schema["properties"]["spec"]), key=_likeliest_last)
    elsewhere = {path.rpartition(".")[2].lower(): path for path in paths}
    for known in (here, elsewhere):
        meant = difflib.get_close_matches(unknown, known, n=1, cutoff=0.75)
        if meant:
            return f"did you mean {known[meant[0]]}?"
    return "remove it"


def _likeliest_last(path: str) -> tuple[bool, int]:
    """Sort key: of equal names the last one wins, so `steps` are those of the training."""
    return path.startswith("spec.training."), -path.count(".")


def _at(schema: Schema, location: Location) -> Schema:
    """The schema at a location; empty where there is none."""
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
