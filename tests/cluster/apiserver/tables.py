"""Objects as tables (meta.k8s.io/v1 Table): what `kubectl get` prints."""

from __future__ import annotations

import re
from typing import Any

from tests.cluster.apiserver.columns import AGE, COLUMNS, NAME, Row
from tests.cluster.apiserver.duration import age, since
from tests.cluster.apiserver.resources import Json, Resource
from tests.cluster.apiserver.store import Stored, encode


class Tables:
    """Answers in the form of tables."""

    def __init__(self, include: str = "Metadata") -> None:
        self._include = include
        """What of each object goes with its row: None, Metadata or Object."""

    def one(self, resource: Resource, stored: Stored) -> bytes:
        version = stored.content["metadata"]["resourceVersion"]
        return self.many(resource, {"resourceVersion": version}, [stored])

    def many(self, resource: Resource, metadata: Json, page: list[Stored]) -> bytes:
        columns, cells = _layout(resource)
        table = {
            "kind": "Table",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": metadata,
            "columnDefinitions": columns,
            "rows": [self._row(cells(one.content), one.content) for one in page],
        }
        return encode(table)

    def _row(self, cells: list[Any], content: Json) -> Json:
        if self._include == "None":
            return {"cells": cells, "object": None}
        if self._include == "Object":
            return {"cells": cells, "object": content}
        part = {
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": content["metadata"],
        }
        return {"cells": cells, "object": part}


def _layout(resource: Resource) -> tuple[list[Json], Row]:
    if resource.custom:
        return _custom_layout(resource)
    columns, row = COLUMNS.get(resource.qualified, ([AGE], lambda content: [age(content)]))
    if columns and columns[0]["name"] == "Last Seen":
        return columns, row
    return [NAME, *columns], lambda content: [content["metadata"]["name"], *row(content)]


def _custom_layout(resource: Resource) -> tuple[list[Json], Row]:
    """The columns of the CRD; those of type date show an age."""
    columns = [
        {
            "name": one["name"],
            "type": one["type"],
            "format": one.get("format", ""),
            "description": one.get("description", ""),
            "priority": one.get("priority", 0),
        }
        for one in resource.columns
    ]

    def row(content: Json) -> list[Any]:
        return [content["metadata"]["name"], *(_cell(one, content) for one in resource.columns)]

    if not resource.columns:
        return [NAME, AGE], lambda content: [content["metadata"]["name"], age(content)]
    return [NAME, *columns], row


def _cell(column: Json, content: Json) -> Any:
    value = at(content, column["jsonPath"])
    if column["type"] == "date":
        return since(value) if value else "<unknown>"
    if value is None:
        return None
    if column["type"] == "string" and isinstance(value, bool):
        return str(value).lower()
    return str(value) if column["type"] == "string" else value


def at(content: Any, path: str) -> Any:
    """What a JSONPath of names (`.status.phase`) and one filter by type leads to; None if nothing.

    `.status.conditions[?(@.type=="Ready")].status` is the one filter that is known.
    """
    for name, key, wanted in re.findall(r"\.(\w+)(?:\[\?\(@\.(\w+)==[\"'](.+?)[\"']\)\])?", path):
        content = content.get(name) if isinstance(content, dict) else None
        if key and content is not None:
            content = next((item for item in content if item.get(key) == wanted), None)
    return content
