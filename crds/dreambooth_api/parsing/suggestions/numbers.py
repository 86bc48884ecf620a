"""What to write in place of something that is no number, or a number that is too low."""

import math
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from dreambooth_api.parsing.suggestions.off import DEFAULTS, NO_VALUES, suggest_off
from dreambooth_api.parsing.suggestions.other_trainers.values import LIST_ADVICE
from dreambooth_api.parsing.suggestions.places import (
    Location,
    field_path,
    is_optional,
    is_within,
    schema_at,
    schema_path,
)

MOST_TRIED = 8
"""Values of a list that are all repeated in the message."""
LONGEST = 24
"""Characters of text that may be a number."""
SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
Reading = tuple[re.Pattern[str], Callable[[re.Match[str]], Decimal]]
_THOUSANDS = (re.compile(r"\d{1,3}(?:[, ']\d{3})+"), lambda m: Decimal(re.sub(r"\D", "", m[0])))
_COMMA = (
    re.compile(r"(\d+),(?!\d{3}$)(\d+(?:[eE][-+]?\d{1,2})?)"),
    lambda m: Decimal(f"{m[1]}.{m[2]}"),
)
_THOUSAND = (re.compile(r"(\d+(?:\.\d+)?) ?[kK]"), lambda m: Decimal(m[1]) * 1000)
_PERCENT = (re.compile(r"(\d+(?:\.\d+)?) ?%"), lambda m: Decimal(m[1]) / 100)
_SQUARE = (re.compile(r"(\d+) ?[x,] ?\1"), lambda m: Decimal(m[1]))
_TIME = (
    re.compile(r"(\d+) ?(s|sec|m|min|h|d)"),
    lambda m: Decimal(m[1]) * SECONDS[m[2]],
)
WHOLE: tuple[Reading, ...] = (_SQUARE, _THOUSANDS, _THOUSAND)
FRACTIONS: tuple[Reading, ...] = (_COMMA, _PERCENT, _THOUSAND)
"""How people write numbers that are text in YAML."""


def suggest_whole_number(location: Location, given: Any) -> str:
    """What to write in place of something that is no whole number."""
    if isinstance(given, float) and math.isfinite(given):
        if given.is_integer():
            return f"write {int(given)}"
        return "round it" if abs(given) > 1 else "write how many, as it is no fraction"
    seconds = (_TIME,) if str(location[-1]).endswith("Seconds") else ()
    return _suggest(location, given, (*seconds, *WHOLE))


def suggest_number(location: Location, given: Any) -> str:
    """What to write in place of something that is no number."""
    return _suggest(location, given, FRACTIONS)


def suggest_more(location: Location, _: Any) -> str:
    """What to do about a number that is too low, and may have been meant to turn something off."""
    # Of an item of a list, what is left out is as usual, and not off.
    in_item = any(isinstance(part, int) for part in location)
    off = None if in_item else suggest_off(location)
    return f"raise it, or {off}" if off else "raise it"


def _suggest(location: Location, given: Any, readings: tuple[Reading, ...]) -> str:
    if isinstance(given, list):
        return LIST_ADVICE.get(schema_path(location)) or _sweep(location, given)
    word = str(given).lower()
    if word in NO_VALUES:
        off = None if word in DEFAULTS else suggest_off(location)
        removed = "remove it" if is_optional(location, or_default=True) else "write a number"
        return off or removed
    if not isinstance(given, str):
        return "write a number"
    if _is_number(given):
        return "write it without quotes"
    for pattern, read in readings if len(given) <= LONGEST else ():
        match = pattern.fullmatch(given.strip())
        if match and is_within(schema_at(location), number := float(read(match))):
            return f"write {number:.12g}"
    return "write it in digits"


def _sweep(location: Location, given: list[Any]) -> str:
    numbers = [str(each) for each in given if type(each) in (int, float)]
    if not 1 < len(numbers) == len(given) <= MOST_TRIED or any(
        isinstance(p, int) for p in location
    ):
        return "write one number"
    field = field_path(location).removeprefix("spec.")
    tried = ",".join(numbers)
    return f"write one of them, or try each with dreambooth sweep --set {field}={tried}"


def _is_number(text: str) -> bool:
    try:
        return Decimal(text).is_finite()
    except InvalidOperation:
        return False
