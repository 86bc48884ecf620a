"""What somebody may have meant by a value that is not one of several."""

import difflib
from collections.abc import Iterable
from typing import Any

from dreambooth_api.parsing.suggestions.off import NO_VALUES, suggest_off
from dreambooth_api.parsing.suggestions.other_trainers.values import VALUE_ADVICE, VALUES
from dreambooth_api.parsing.suggestions.places import Location, plain, schema_path, spec_paths

CLOSE = 0.6
"""How alike two values are, of 1."""
MOST_NAMED = 2
"""Fields with the value that are all named; of more, none is likelier than the others."""
COMMON = frozenset({"auto", "default", "none"})
"""Values that mean something else in every field."""


def suggest_choice(location: Location, choices: Iterable[str], given: Any) -> str | None:
    """Advice about a value that is not one of a field's choices; None: nothing is like it."""
    known = {plain(choice): choice for choice in choices}
    # The only choice, such as a kind, is named already.
    if not isinstance(given, str | bool | int) or len(known) == 1:
        return None
    meant = find_choice(schema_path(location), known.values(), given)
    if meant is not None:
        return f"did you mean {meant}?"
    value = plain(str(given))
    told = VALUE_ADVICE.get(schema_path(location), {}).get(value)
    if told is not None:
        return told
    if value in NO_VALUES and (off := suggest_off(location)) is not None:
        return off
    others = [] if value in COMMON else [*_fields_with(value, location)]
    if 0 < len(others) <= MOST_NAMED:
        return f"it is a value of {' or '.join(others)}, so write it there"
    closest = difflib.get_close_matches(value, known, n=1, cutoff=CLOSE)
    return f"did you mean {known[closest[0]]}?" if closest else None


def find_choice(path: str, choices: Iterable[str], given: Any) -> str | None:
    """The choice that a value is another spelling or another name of."""
    value = plain(str(given))
    same = next((choice for choice in choices if plain(choice) == value), None)
    return same or VALUES.get(path, {}).get(value)


def _fields_with(value: str, location: Location) -> Iterable[str]:
    for path, field in spec_paths(location):
        if value in map(plain, field.get("enum", ())):
            yield path
