"""Pydantic's errors as messages: `spec.training.steps: must be at least 1 (got 0); raise it`."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from dreambooth_api.parsing.quote import quoted
from dreambooth_api.parsing.suggestions.choices import suggest_choice
from dreambooth_api.parsing.suggestions.fields import suggest_field
from dreambooth_api.parsing.suggestions.numbers import (
    suggest_more,
    suggest_number,
    suggest_whole_number,
)
from dreambooth_api.parsing.suggestions.places import Location, field_path, is_secret
from dreambooth_api.parsing.suggestions.sections import suggest_section
from dreambooth_api.parsing.suggestions.texts import suggest_boolean, suggest_text, suggest_uri
from dreambooth_api.schema.base import PATTERNS
from dreambooth_api.schema.map_list import DuplicateKeyError
from dreambooth_api.schema.rules import BrokenRulesError, Rule

# A long list whose items are all wrong has an error for each; nobody reads thousands.
MAX_ERRORS = 50


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
    return f"{field_path(location)}.{rule.field}: {rule.message}"


def _lines(detail: ErrorDetails) -> Iterator[str]:
    path = field_path(detail["loc"])
    broken = detail.get("ctx", {}).get("error")
    if isinstance(broken, BrokenRulesError):
        yield from (rule_message(detail["loc"], rule) for rule in broken.rules)
    elif isinstance(broken, DuplicateKeyError):
        yield (
            f"{path}[{broken.index}]: another item has the same {broken.key}"
            f" ({quoted(broken.value)}); remove one of them"
        )
    elif detail["type"] == "extra_forbidden":
        yield f"{path}: unknown field; {suggest_field(detail['loc'])}"
    elif detail["type"] == "missing":
        yield f"{path}: required; add it"
    else:
        known, context = SENTENCES.get(detail["type"]), detail.get("ctx", {})
        what, remedy = known(context) if known else (f"valid: {detail['msg']}", "correct it")
        remedy = _remedy(detail) or remedy
        got = "" if is_secret(detail["loc"]) else f" (got {quoted(detail['input'])})"
        yield f"{path}: must be {what}{got}; {remedy}"


def _remedy(detail: ErrorDetails) -> str | None:
    """Advice that depends on the place or the value; None: that of the kind of error will do."""
    location, given, context = detail["loc"], detail["input"], detail.get("ctx", {})
    if detail["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        return suggest_choice(location, choices, given)
    suggest = BY_VALUE.get(detail["type"])
    return suggest(location, given) if suggest else suggest_uri(context.get("pattern"), given)


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
    "int_type": lambda _: ("a whole number", "write a number"),
    "float_type": lambda _: ("a number", "write a number"),
    "finite_number": lambda _: ("a finite number", "write a number"),
    "bool_type": lambda _: ("true or false", "write one of them"),
    "string_type": lambda _: ("text", "write text"),
    "list_type": lambda _: ("a list", "start each item with '- '"),
    "dict_type": lambda _: ("a mapping", "write `key: value` below it"),
    "model_type": lambda _: ("a mapping", "write its fields below it"),
}
"""By pydantic's error type: what the value must be, and what to do."""

BY_VALUE: dict[str, Callable[[Location, Any], str]] = {
    "greater_than_equal": suggest_more,
    "greater_than": suggest_more,
    "int_type": suggest_whole_number,
    "float_type": suggest_number,
    "bool_type": suggest_boolean,
    "string_type": suggest_text,
    "model_type": suggest_section,
}
"""Advice by the value, for the error types that have some."""
