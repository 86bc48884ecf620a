"""Sets of fields, as managedFields name them (structured-merge-diff).

A path is a tuple of elements: `f:name` for a field or a map's key, `k:{...}` for an item of a list
with keys, `v:...` for an item of a set. A set of fields is a set of such paths.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

from tests.cluster.apiserver.resources import Json

Path = tuple[str, ...]
Fields = frozenset[Path]
Resolve = Callable[[Json], Json]

NONE: Fields = frozenset()
KEY_DEFAULTS = {"protocol": "TCP"}
"""Keys that an applied item may leave out: ports are identified by port and protocol."""


class Shape:
    """How the values of a schema's node are merged."""

    def __init__(self, node: Json, resolve: Resolve) -> None:
        self.node = resolve(node)
        self._resolve = resolve

    def field(self, name: str) -> Shape:
        found = self.node.get("properties", {}).get(name) or self.node.get("additionalProperties")
        return Shape(found if isinstance(found, dict) else {}, self._resolve)

    def item(self) -> Shape:
        return Shape(self.node.get("items", {}), self._resolve)

    def is_named(self, name: str) -> bool:
        """Whether a field has a name in the schema, rather than being a key of a map."""
        return name in self.node.get("properties", {})

    def is_atomic(self, value: Any) -> bool:
        """Whether a value has one owner as a whole."""
        if isinstance(value, dict):
            return bool(self.node.get("x-kubernetes-map-type") == "atomic")
        if isinstance(value, list):
            return bool(self.node.get("x-kubernetes-list-type", "atomic") == "atomic")
        return True

    def element(self, item: Any) -> str:
        """The path element of a list's item."""
        keys = self.node.get("x-kubernetes-list-map-keys")
        if not keys:
            return f"v:{_json(item)}"
        found = {key: item.get(key, KEY_DEFAULTS.get(key)) for key in sorted(keys)}
        return f"k:{_json({key: value for key, value in found.items() if value is not None})}"


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def fields_of(shape: Shape, value: Any, path: Path = ()) -> Iterator[Path]:
    """The fields that an applied object names."""
    if shape.is_atomic(value):
        yield path
    elif isinstance(value, dict):
        for key, item in value.items():
            here = (*path, f"f:{key}")
            yield from fields_of(shape.field(key), item, here)
            if item is None or item == {} or not shape.is_named(key):
                yield here
    else:
        for item in value:
            here = (*path, shape.element(item))
            yield from fields_of(shape.item(), item, here)
            yield here


def differences(shape: Shape, old: Any, new: Any, path: Path = ()) -> Iterator[tuple[str, Path]]:
    """`added`, `modified` and `removed` fields from one value to another."""
    if old == new and type(old) is type(new):
        return
    if old is None or new is None:
        yield from _only(
            shape, old if new is None else new, path, "removed" if new is None else "added"
        )
        return
    if type(old) is not type(new) or shape.is_atomic(new):
        yield "modified", path
        return
    before, after = _children(shape, old), _children(shape, new)
    for element in before.keys() | after.keys():
        below, first = before.get(element, (None, None)), after.get(element, (None, None))
        inner = below[0] or first[0]
        assert inner is not None
        yield from differences(inner, below[1], first[1], (*path, element))


def _only(shape: Shape, value: Any, path: Path, kind: str) -> Iterator[tuple[str, Path]]:
    """A value that only one side has, with everything in it."""
    yield kind, path
    if not shape.is_atomic(value):
        for element, (inner, item) in _children(shape, value).items():
            yield from _only(inner, item, (*path, element), kind)


def _children(shape: Shape, value: Any) -> dict[str, tuple[Shape, Any]]:
    if isinstance(value, dict):
        return {f"f:{key}": (shape.field(key), item) for key, item in value.items()}
    return {shape.element(item): (shape.item(), item) for item in value}


def with_prefixes(fields: Iterable[Path]) -> set[Path]:
    """The fields and everything above them."""
    return {path[:length] for path in fields for length in range(1, len(path) + 1)}


def to_fields_v1(fields: Fields) -> Json:
    """A set of fields as fieldsV1 writes it: nested, with "." for an inner node that is in it."""
    result: Json = {}
    for path in sorted(fields):
        node = result
        for element in path:
            node = node.setdefault(element, {})
        node["."] = {}
    return _without_leaf_dots(result)


def _without_leaf_dots(node: Json) -> Json:
    if node.keys() == {"."}:
        return {}
    return {key: _without_leaf_dots(below) if key != "." else {} for key, below in node.items()}


def from_fields_v1(node: Json) -> Fields:
    return _from_json(_json(node))


@lru_cache(maxsize=4096)
def _from_json(text: str) -> Fields:
    return frozenset(_paths(json.loads(text), ()))


def _paths(node: Json, path: Path) -> Iterator[Path]:
    for key, below in node.items():
        if key == ".":
            yield path
        elif not below:
            yield (*path, key)
        else:
            yield from _paths(below, (*path, key))


def rank(path: Path) -> list[tuple[bool, str]]:
    """Paths in the order of messages: at each level, what ends there comes first."""
    last = len(path) - 1
    return [(depth < last, element) for depth, element in enumerate(path)]


def dotted(path: Path) -> str:
    """A path in messages: `.spec.containers[name="trainer"].image`."""
    return "".join(_dotted(element) for element in path)


def _dotted(element: str) -> str:
    kind, _, rest = element.partition(":")
    if kind == "f":
        return f".{rest}"
    if kind == "k":
        keys = json.loads(rest)
        return "[" + ",".join(f"{key}={_json(value)}" for key, value in keys.items()) + "]"
    return f"[={rest}]"
