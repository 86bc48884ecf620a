"""How a bare value is written in the section that it was given for."""

import re
from collections.abc import Iterator
from typing import Any

from dreambooth_api.codegen.schema import Schema
from dreambooth_api.parsing.suggestions.choices import find_choice
from dreambooth_api.parsing.suggestions.off import NO_VALUES
from dreambooth_api.parsing.suggestions.other_trainers.values import NUMBERS, VALUE_ADVICE
from dreambooth_api.parsing.suggestions.places import (
    Location,
    is_optional,
    is_secret,
    is_within,
    plain,
    schema_at,
    schema_path,
)
from dreambooth_api.parsing.suggestions.texts import is_hub_name

WRITABLE = re.compile(r"[\w./:<>+-][\w ./:<>+-]{0,39}")
"""Text that an example may hold without quotes."""
FALLBACK = "write its fields below it"


def suggest_section(location: Location, given: Any) -> str:
    """What to write in place of a bare value: `write prior: {enabled: false}`."""
    if given is None:
        return f"{FALLBACK}, or remove it"
    if isinstance(given, list):
        return FALLBACK
    path, value = schema_path(location), plain(str(given))
    told = VALUE_ADVICE.get(path, {}).get(value)
    if told is not None:
        return told
    if isinstance(given, bool) or value in NO_VALUES:
        return _switch(location, is_on=given is True)
    section = schema_at(location)
    required: list[str] = section.get("required", [])
    properties: Schema = section.get("properties", {})
    taken = {} if is_secret(location) else dict(_taken(path, properties, given))
    chosen = _chosen(path, required, taken)
    if chosen is None and not required:
        return FALLBACK
    if chosen is None:
        return _write(location, required, {})
    is_off = properties.get("enabled", {}).get("default") is False
    turned_on = {"enabled": "true"} if is_off else {}
    return _write(location, required, {**turned_on, chosen: taken[chosen]})


def _switch(location: Location, is_on: bool) -> str:
    """How a section is turned on or off."""
    section = schema_at(location)
    if "enabled" in section.get("properties", {}):
        return _write(location, [], {"enabled": str(is_on).lower()})
    if not is_on:
        return "remove it" if is_optional(location, or_default=True) else FALLBACK
    # Where it has a default, it is on already.
    return _write(location, section.get("required", []), {}) if is_optional(location) else FALLBACK


def _chosen(path: str, required: list[str], taken: dict[str, str]) -> str | None:
    """The field that a value is likeliest for; None: there is none, or several."""
    if NUMBERS.get(path) in taken:
        return NUMBERS[path]
    likely = [name for name in required or taken if name in taken]
    return likely[0] if len(likely) == 1 else None


def _write(location: Location, required: list[str], given: dict[str, str]) -> str:
    fields = {**dict.fromkeys(required, "..."), **given}
    body = "{" + ", ".join(f"{name}: {value}" for name, value in fields.items()) + "}"
    return f"write {body}" if isinstance(location[-1], int) else f"write {location[-1]}: {body}"


def _taken(path: str, fields: Schema, given: Any) -> Iterator[tuple[str, str]]:
    """The fields that take a value, and how it is written there.

    One that lists it comes alone, and so does the source of a model, whose revision takes any text.
    """
    listed = {
        name: find_choice(f"{path}.{name}", field["enum"], given)
        for name, field in fields.items()
        if "enum" in field
    }
    named = [(name, choice) for name, choice in listed.items() if choice is not None]
    if named:
        yield named[0]
        return
    shown = str(given)
    if "source" in fields and is_hub_name(shown):
        shown = given = f"hf://{shown}"
    if "source" in fields and _takes(fields["source"], given):
        fields = {"source": fields["source"]}
    if WRITABLE.fullmatch(shown):
        for name, field in fields.items():
            if name not in listed and _takes(field, given):
                yield name, shown


def _takes(field: Schema, given: Any) -> bool:
    """Whether a value is one of a field's, as far as type, bounds and pattern say."""
    kind = field.get("type")
    if isinstance(given, str):
        fits = re.search(field.get("pattern", ""), given) is not None
        return kind == "string" and fits and len(given) <= field.get("maxLength", len(given))
    if kind == "integer":
        return isinstance(given, int) and is_within(field, given)
    return kind == "number" and isinstance(given, int | float) and is_within(field, given)
