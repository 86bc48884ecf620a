"""Values of a job file in messages: short, and without what a terminal would obey."""

from typing import Any

MAX_CHARACTERS = 60


def quoted(value: Any) -> str:
    """Python's notation of a value, cut to `MAX_CHARACTERS`: it escapes control characters."""
    try:
        return shortened(repr(value))
    except RecursionError:
        return "..."


def shortened(text: str) -> str:
    """The text, cut to `MAX_CHARACTERS`."""
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 3]}..."
