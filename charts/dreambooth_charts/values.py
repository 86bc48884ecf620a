"""The values of values.yaml, each with the comment above it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Value:
    """A value of the chart, as documented in values.yaml."""

    path: tuple[str, ...]
    text: str
    """The comment above it, as Markdown; empty: the comment of its parent explains it."""
    default: object
    leaf: bool
    """It is set as a whole, and is not only a mapping of other values."""

    @property
    def name(self) -> str:
        """`image.tag`, as Helm's --set takes it."""
        return ".".join(self.path)


def documented(path: Path) -> list[Value]:
    """Read the values of a file, in its order and parents before children.

    Raises:
        ValueError: The file is not a mapping.
    """
    text = path.read_text(encoding="utf-8")
    # The nodes give the lines, which the loaded values no longer have.
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise ValueError(f"{path}: must be a mapping of values")
    return list(_values(root, yaml.safe_load(text), (), text.splitlines()))


def _values(
    node: yaml.MappingNode, defaults: dict[str, Any], parents: tuple[str, ...], lines: list[str]
) -> Iterator[Value]:
    for key, child in node.value:
        path, default = (*parents, key.value), defaults[key.value]
        inner: list[Value] = []
        # `{}` is a value to be set as a whole, not a group.
        if isinstance(child, yaml.MappingNode) and not child.flow_style:
            inner = list(_values(child, default, path, lines))
        # A mapping without comments in it, such as `resources`, is one value.
        has_values = any(value.text or value.path[-1] == "enabled" for value in inner)
        yield Value(path, _comment(lines, key.start_mark.line), default, leaf=not has_values)
        if has_values:
            yield from inner


def _comment(lines: list[str], end: int) -> str:
    """The comment that ends above line number `end`."""
    start = end
    while start > 0 and lines[start - 1].lstrip().startswith("#"):
        start -= 1
    stripped = (line.lstrip() for line in lines[start:end])
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in stripped)
