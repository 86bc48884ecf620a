"""Lists that repeat nothing, as `x-kubernetes-list-type: map` or `set` and in Python.

Server-side apply merges such a list item by item, so that two managers can own parts of it. Items
have no defaults of their own: the API server would write them into the list, and `kubectl apply` of
an unchanged file would find a difference each time.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.alias_generators import to_snake
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema


class DuplicateKeyError(ValueError):
    """Two items of a list have the same key, or are the same (key "value")."""

    def __init__(self, index: int, key: str, value: Any) -> None:
        super().__init__(f"item {index} repeats {key} {value!r}")
        self.index = index
        self.key = key
        self.value = value


@dataclass(frozen=True)
class MapList:
    """Annotation of a list of models: no two items have the same value of a required field."""

    key: str
    """The field as it is written in YAML."""

    def check(self, items: list[Any]) -> list[Any]:
        """Return the items.

        Raises:
            DuplicateKeyError: two of them have the same key.
        """
        _check_unique((getattr(item, to_snake(self.key)) for item in items), self.key)
        return items

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        kind = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [self.key]}
        return handler(schema) | kind


class SetList:
    """Annotation of a list of texts or numbers: no two of them are the same."""

    def check(self, items: list[Any]) -> list[Any]:
        """Return the items.

        Raises:
            DuplicateKeyError: two of them are the same.
        """
        _check_unique(items, "value")
        return items

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(schema) | {"x-kubernetes-list-type": "set"}


def _check_unique(values: Iterable[Hashable], key: str) -> None:
    known = set()
    for index, value in enumerate(values):
        if value in known:
            raise DuplicateKeyError(index, key, value)
        known.add(value)
