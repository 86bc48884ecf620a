"""Places in a job file: their paths, and what the schema says of them."""

import functools
from collections.abc import Iterator

from dreambooth_api.codegen.schema import Schema, job_schema
from dreambooth_api.parsing.quote import shortened

Location = tuple[int | str, ...]


def field_path(location: Location) -> str:
    """A location as a path: `spec.subjects[0].images`."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            key = shortened(part if part.isprintable() else ascii(part)[1:-1])
            path += f".{key}" if part.isidentifier() else f"[{key}]"
    return path.lstrip(".") or "job"


def plain(name: str) -> str:
    """A name without what people spell differently."""
    return name.replace("_", "").replace("-", "").replace(" ", "").lower()


# From the schema and not from the models: its names and nesting are those of the file.
@functools.cache
def schema() -> Schema:
    """The schema of a job."""
    return job_schema()


def schema_at(location: Location) -> Schema:
    """The schema at a location; empty where there is none."""
    found = schema()
    for part in location:
        fields = found.get("properties", {})
        found = found.get("items", {}) if isinstance(part, int) else fields.get(part, {})
    return found


def spec_paths(near: Location) -> Iterator[tuple[str, Schema]]:
    """Every field of the spec with its schema.

    An item of a list is that of `near`, the location that they are told for, and the first one in
    other lists.
    """
    return _below("spec", schema()["properties"]["spec"], near[1:])


def _below(path: str, node: Schema, near: Location) -> Iterator[tuple[str, Schema]]:
    for name, field in node.get("properties", {}).items():
        child, below = field.get("items", field), near[1:] if near[:1] == (name,) else ()
        yield f"{path}.{name}", field
        if child is field:
            yield from _below(f"{path}.{name}", child, below)
        else:
            index = next((part for part in below[:1] if isinstance(part, int)), 0)
            yield from _below(f"{path}.{name}[{index}]", child, below[1:])


def schema_path(location: Location) -> str:
    """A place below spec without the numbers of items, `subjects[].images`; others have none."""
    below = location[1:] if location[:1] == ("spec",) else ()
    path = "".join("[]" if isinstance(part, int) else f".{part}" for part in below)
    return path.lstrip(".")


def is_optional(location: Location, or_default: bool = False) -> bool:
    """Whether a field may be left out, and then has no value, or with `or_default` any other."""
    section, name = schema_at(location[:-1]), location[-1]
    field = section.get("properties", {}).get(name)
    if field is None or name in section.get("required", ()):
        return False
    return or_default or "default" not in field


def is_within(field: Schema, number: float) -> bool:
    """Whether a number is within the bounds of a field."""
    low: float = field.get("minimum", number)
    high: float = field.get("maximum", number)
    above = number > low if field.get("exclusiveMinimum") else number >= low
    return above and (number < high if field.get("exclusiveMaximum") else number <= high)


def is_secret(location: Location) -> bool:
    """Whether a place refers to a Secret, where somebody may write the secret itself."""
    return any(str(part).lower().endswith(("secretref", "credentials")) for part in location)
