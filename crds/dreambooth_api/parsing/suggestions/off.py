"""How a field is turned off."""

from dreambooth_api.parsing.suggestions.other_trainers.values import OFF
from dreambooth_api.parsing.suggestions.places import Location, is_optional, schema_path

DEFAULTS = frozenset({"auto", "default"})
"""What people write for a value that is chosen for them."""
NO_VALUES = DEFAULTS | {"", "false", "none", "null", "off"}
"""What people write for no value."""


def suggest_off(location: Location) -> str | None:
    """How to turn off what a field says; None: it cannot be."""
    off = OFF.get(schema_path(location))
    return off or ("remove it" if is_optional(location) else None)
