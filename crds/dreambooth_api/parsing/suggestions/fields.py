"""What somebody may have meant by a field that does not exist."""

import difflib
from collections.abc import Iterator, Mapping

from dreambooth_api.parsing.suggestions.other_trainers.advice import ADVICE, NO_COUNTERPART
from dreambooth_api.parsing.suggestions.other_trainers.fields import FIELDS
from dreambooth_api.parsing.suggestions.places import (
    Location,
    field_path,
    plain,
    schema_at,
    spec_paths,
)

CLOSE, ALMOST_SAME, SLIP = 0.75, 0.85, 0.9
"""How alike two names are, of 1: of a field and another one of the same part, and of a field and
one of another part, where what is merely like it means something else: a slip of one letter."""
SHORT = 5
"""Letters of names in which one other letter makes another word: `dtype` is no `type`."""
MOST_NAMED = 4
"""Fields of the same name that are all named; of more, none is likelier than the others."""
OF_THEIR_SECTION = frozenset(
    {
        "decay",
        "endpoint",
        "image",
        "job",
        "key",
        "metrics",
        "mode",
        "model",
        "text",
        "token",
        "type",
    }
)
"""Names that mean something else in every section."""
UNKNOWN = "no other has a similar name, so look for it in docs/reference.md, or remove it"


def suggest_field(location: Location) -> str:
    """Advice about an unknown field: by what other trainers call it, else by the closest name."""
    *_, section = ("job", *(part for part in location[:-1] if isinstance(part, str)))
    name = plain(str(location[-1]))
    here = {
        plain(field): [field_path((*location[:-1], field))]
        for field in schema_at(location[:-1]).get("properties", {})
    }
    if name in here:
        return _ask(here[name])
    for other in (f"{plain(section)}.{name}", name):
        if other in FIELDS:
            return _ask([_path(FIELDS[other], location)])
        if other in ADVICE:
            return ADVICE[other]
        if other in NO_COUNTERPART:
            return "it has no counterpart, so remove it"
    return _guess(location, here)


def _guess(location: Location, here: Mapping[str, list[str]]) -> str:
    """Advice by names that are the same, or nearly so, here and elsewhere in the spec."""
    name = plain(str(location[-1]))
    elsewhere: dict[str, list[str]] = {}
    for path, _ in spec_paths(location[:-1]):
        for each in _names(path):
            elsewhere.setdefault(each, []).append(path)
    elsewhere = {each: found for each, found in elsewhere.items() if len(found) <= MOST_NAMED}
    slips = elsewhere if len(name) > SHORT else {}
    # What is almost the same here is likelier meant than the same elsewhere, and that than what is
    # merely like it here.
    for known, cutoff in ((here, ALMOST_SAME), (elsewhere, 1), (slips, SLIP), (here, CLOSE)):
        closest = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
        if closest:
            return _ask(known[closest[0]])
    return UNKNOWN


def _names(path: str) -> Iterator[str]:
    """What a field is called elsewhere: by its name, and after its section (`loraRank`)."""
    *_, section, name = (plain(part.partition("[")[0]) for part in path.split("."))
    if name not in OF_THEIR_SECTION or section == "spec":
        yield name
    yield f"{section}{name}"
    if section.endswith("s"):
        yield f"{section[:-1]}{name}"


def _path(field: str, location: Location) -> str:
    """The path of a field of the table, in the item that the location is in."""
    item = next((part for part in location if isinstance(part, int)), 0)
    return f"spec.{field}".replace("[]", f"[{item if location[1:2] == ('subjects',) else 0}]")


def _ask(paths: list[str]) -> str:
    """The question, with those of the training first: its fields are named most."""
    paths = sorted(paths, key=lambda path: (not path.startswith("spec.training."), path.count(".")))
    *others, last = paths
    return f"did you mean {', '.join(others)} or {last}?" if others else f"did you mean {last}?"
