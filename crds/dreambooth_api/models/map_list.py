"""Lists whose items have a key, as `x-kubernetes-list-type: map` and in Python.

Server-side apply merges such a list item by item, so that two managers can own parts of it. Items
have no defaults of their own: the API server would write them into the list, and `kubectl apply` of
an unchanged file would find a difference each time.
"""

from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.alias_generators import to_snake
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema


class DuplicateKeyError(ValueError):
    """Two items of a list have the same key; raised by `MapList.check`."""

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
        known = set()
        for index, item in enumerate(items):
            value = getattr(item, to_snake(self.key))
            if value in known:
                raise DuplicateKeyError(index, self.key, value)
            known.add(value)
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
