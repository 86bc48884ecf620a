"""The published schemas of the built-in objects (package kubernetes-validate), one per version.

They say what fields there are, of what type, which must be there, and how lists and maps are merged
(`x-kubernetes-*`).
"""

from __future__ import annotations

import base64
import importlib.resources
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from tests.cluster.apiserver.resources import Json, Resource

TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
    "null": (type(None),),
}


@dataclass(frozen=True)
class Fault:
    """What a published schema says against a value."""

    kind: str
    """`unknown`, `required`, `type` or `value`."""
    path: str
    message: str


class OpenApiSchemas:
    """The schemas of one minor version of Kubernetes, for example 1.37."""

    def __init__(self, version: str) -> None:
        self.version = version
        self._definitions = _definitions(version)
        self._kinds = {
            (kind["group"], kind["version"], kind["kind"]): name
            for name, definition in self._definitions.items()
            for kind in definition.get("x-kubernetes-group-version-kind", [])
        }

    def of(self, group: str, version: str, kind: str) -> Json | None:
        """The schema of a kind; None for one that this version does not know."""
        name = self._kinds.get((group, version, kind))
        return self._definitions[name] if name else None

    def of_resource(self, resource: Resource) -> Json | None:
        return self.of(resource.group, resource.version, resource.kind)

    def resolve(self, node: Json) -> Json:
        """A node of a schema with what it refers to; its own keys stand before those."""
        reference = node.get("$ref")
        if reference is None:
            return node
        target: Json = self._definitions[reference.rpartition("/")[2]]
        return target | node

    def faults(self, content: Json) -> list[Fault]:
        """What is wrong with an object by this version's schema; of an unknown kind: nothing."""
        group, _, version = content.get("apiVersion", "").rpartition("/")
        schema = self.of(group, version, content.get("kind", ""))
        return [] if schema is None else list(self._walk(schema, content, ""))

    def _walk(self, node: Json, value: Any, path: str) -> Iterator[Fault]:
        node = self.resolve(node)
        if "oneOf" in node:
            choices = [list(self._walk(choice, value, path)) for choice in node["oneOf"]]
            yield from [] if [] in choices else choices[0]
            return
        if not _has_type(node, value):
            wanted = node["type"] if isinstance(node["type"], str) else node["type"][0]
            yield Fault("type", path, f"must be of type {wanted}")
        elif isinstance(value, dict):
            yield from self._walk_object(node, value, path)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                yield from self._walk(node.get("items", {}), item, f"{path}[{index}]")
        elif node.get("format") == "byte" and not _is_base64(value):
            yield Fault("type", path, "must be base64")
        elif value not in node.get("enum", [value]):
            yield Fault("value", path, f"must be one of {node['enum']}")

    def _walk_object(self, node: Json, value: Json, path: str) -> Iterator[Fault]:
        fields = node.get("properties", {})
        others = node.get("additionalProperties", not fields)
        for name in node.get("required", []):
            if value.get(name) is None:
                yield Fault("required", f"{path}.{name}".lstrip("."), "is required")
        for name, item in value.items():
            here = f"{path}.{name}".lstrip(".")
            if name in fields:
                yield from self._walk(fields[name], item, here)
            elif isinstance(others, dict):
                yield from self._walk(others, item, here)
            elif not others:
                yield Fault("unknown", here, "is not a field")


def _has_type(node: Json, value: Any) -> bool:
    types = node.get("type")
    if types is None:
        return True
    names = [types] if isinstance(types, str) else types
    if isinstance(value, bool):
        return "boolean" in names
    return any(isinstance(value, TYPES[name]) for name in names)


def _is_base64(value: Any) -> bool:
    try:
        base64.b64decode(value or "", validate=True)
    except ValueError:
        return False
    return True


@cache
def published(version: str) -> OpenApiSchemas:
    """The schemas of a minor version, read once."""
    return OpenApiSchemas(version)


def _definitions(version: str) -> Json:
    folder = importlib.resources.files("kubernetes_validate") / "kubernetes-json-schema"
    file = folder / f"v{version}.0-local-strict" / "_definitions.json"
    found: Json = json.loads(file.read_text())["$defs"]
    return found
