"""What to write in place of something that is no text, or neither true nor false."""

import re
from typing import Any

from dreambooth_api.models.model import FILE_ENDINGS
from dreambooth_api.parsing.quote import quoted
from dreambooth_api.parsing.suggestions.other_trainers.values import LIST_ADVICE, VALUE_ADVICE
from dreambooth_api.parsing.suggestions.places import Location, is_optional, plain, schema_path
from dreambooth_api.schema.base import PATTERNS

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

QUOTED = {
    **dict.fromkeys(("true", "yes", "y", "on"), "true"),
    **dict.fromkeys(("false", "no", "n", "off"), "false"),
}
"""What YAML takes for true and false where it has no quotes."""


def suggest_text(location: Location, given: Any) -> str:
    """What to write in place of something that is no text."""
    path = schema_path(location)
    if isinstance(given, list):
        return LIST_ADVICE.get(path, "write one text")
    if isinstance(given, dict):
        return "write one text"
    if given is None and is_optional(location, or_default=True):
        return "remove it"
    told = VALUE_ADVICE.get(path, {}).get(plain(str(given)))
    return told or "put it in quotes if it is meant as text"


def suggest_boolean(location: Location, given: Any) -> str:
    """What to write in place of something that is neither true nor false."""
    if given is None and is_optional(location, or_default=True):
        return "remove it"
    if isinstance(given, str) and given.lower() in QUOTED:
        return f"write {QUOTED[given.lower()]} without quotes"
    if isinstance(given, int | float) and given in (0, 1):
        return f"write {str(bool(given)).lower()}"
    return "write one of them"


def suggest_uri(pattern: str | None, value: Any) -> str | None:
    """Advice about a model or a folder that lacks only its scheme; None for anything else."""
    example = PATTERNS.get(pattern or "", "")
    if not isinstance(value, str) or "file:///" not in example or not value.isprintable():
        return None
    if value.startswith("/"):
        return f"write file://{quoted(value)[1:-1]}"
    if "hf://" in example and is_hub_name(value):
        return f"write hf://{value}, or an absolute path"
    if "hf://" in example and "://" not in value:
        return "write an absolute path"
    return None


def is_hub_name(text: str) -> bool:
    """Whether a text may name a model on the Hugging Face hub, `owner/name`, and no file."""
    return HUB_NAME.fullmatch(text) is not None and not text.endswith(FILE_ENDINGS)
