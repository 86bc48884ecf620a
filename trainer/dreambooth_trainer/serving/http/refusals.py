"""What a request that is not valid has wrong, for people. Pure."""

from collections.abc import Mapping
from typing import Any

from dreambooth_api.schema.base import PATTERNS

BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}
KINDS = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a number that is finite",
    "string_type": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}
MOST_SHOWN = 60
"""Characters of a value that is quoted."""


def explain(error: Mapping[str, Any]) -> tuple[str | None, str]:
    """The field of an error of pydantic, None for the body, and a message that names it."""
    # What is no JSON has the number of a character in place of a field.
    field = error["loc"][1:] if error["type"] != "json_invalid" else ()
    param = ".".join(map(str, field)) or None
    return param, f"{param or 'body'}: {_reason(error)}"


def _reason(error: Mapping[str, Any]) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "missing":
        return "is missing; add it"
    if kind == "json_invalid":
        return f"is no JSON ({context.get('error', 'damaged')}); send a JSON object"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return "must be a JSON object, with Content-Type: application/json"
    given = repr(error["input"])
    got = f" (got {given if len(given) <= MOST_SHOWN else given[:MOST_SHOWN] + '...'})"
    if kind in BOUNDS:
        name, words = BOUNDS[kind]
        return f"must be {words} {context[name]:g}{got}"
    if kind in KINDS:
        return f"must be {KINDS[kind]}{got}"
    if kind == "literal_error":
        return f"must be {context['expected']}{got}"
    if kind == "string_too_long":
        return f"must have at most {context['max_length']} characters; shorten it"
    # A pattern says less than what it is for.
    if what := PATTERNS.get(context.get("pattern")):
        return f"must be {what}{got}"
    reason: str = error["msg"]
    return reason.removeprefix("Value error, ")
