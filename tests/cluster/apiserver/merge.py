"""The patch types: JSON patch (RFC 6902), merge patch (RFC 7386) and strategic merge patch."""

from __future__ import annotations

import re
from typing import Any

import jsonpatch
import jsonpointer

from tests.cluster.apiserver.errors import ApiError, bad_request
from tests.cluster.apiserver.openapi_schemas import OpenApiSchemas
from tests.cluster.apiserver.requests import ApiRequest
from tests.cluster.apiserver.resources import Json

JSON = "application/json-patch+json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"
KNOWN = (JSON, MERGE, STRATEGIC, APPLY)

DIRECTIVES = ("$patch", "$retainKeys")
DELETE_ITEMS = "$deleteFromPrimitiveList/"
ORDER = "$setElementOrder/"


def patched(call: ApiRequest, schema: Json, schemas: OpenApiSchemas, content: Json) -> Json:
    """An object (which may be changed) with the request's patch, of a known type but apply."""
    if call.content_type == JSON:
        return _json_patch(content, call.body)
    if call.content_type == MERGE:
        result: Json = merge_patch(content, call.object)
        return result
    return Strategic(schemas).merge(schema, content, call.object)


def _json_patch(content: Json, operations: Any) -> Json:
    try:
        result: Json = jsonpatch.apply_patch(content, operations)
    except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException) as error:
        message = "the server rejected our request due to an error in our request"
        raise ApiError(422, "Invalid", message, {}) from error
    return result


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386: objects are merged, null removes, all else replaces."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


class Strategic:
    """Strategic merge patch, by the published schemas' merge keys."""

    def __init__(self, schemas: OpenApiSchemas) -> None:
        self._schemas = schemas

    def merge(self, schema: Json, target: Json, patch: Json) -> Json:
        """The target with a patch of maps merged in."""
        schema = self._schemas.resolve(schema)
        directive = patch.get("$patch")
        if directive == "replace":
            return {key: value for key, value in patch.items() if key != "$patch"}
        if directive == "delete":
            return {}
        result = dict(target)
        if "$retainKeys" in patch:
            result = {key: value for key, value in result.items() if key in patch["$retainKeys"]}
        for key, value in patch.items():
            if key in DIRECTIVES or key.startswith(ORDER):
                continue
            if key.startswith(DELETE_ITEMS):
                name = key.removeprefix(DELETE_ITEMS)
                result[name] = [item for item in result.get(name) or [] if item not in value]
            elif value is None:
                result.pop(key, None)
            else:
                order = patch.get(ORDER + key)
                result[key] = self._field(schema, key, result.get(key), value, order)
        for key, order in patch.items():
            name = key.removeprefix(ORDER)
            if key.startswith(ORDER) and name not in patch and name in result:
                present, merge_key = result[name], self._merge_key(schema, name)
                result[name] = _ordered(present, present, order, merge_key)
        return result

    def _field(self, schema: Json, key: str, target: Any, value: Any, order: Any) -> Any:
        node = self._node(schema, key)
        if isinstance(value, dict):
            return self.merge(node, target if isinstance(target, dict) else {}, value)
        if not isinstance(value, list) or "merge" not in _strategies(node):
            return value
        merge_key = node.get("x-kubernetes-patch-merge-key")
        present = target or []
        if merge_key is None:
            merged = present + [item for item in value if item not in present]
        else:
            merged = self._merge_items(node["items"], present, value, merge_key)
        return _ordered(merged, present, order or value, merge_key)

    def _merge_items(
        self, schema: Json, target: list[Any], patch: list[Any], key: str
    ) -> list[Any]:
        if any(item == {"$patch": "replace"} for item in patch):
            return [item for item in patch if item != {"$patch": "replace"}]
        result = list(target)
        for item in patch:
            if key not in item:
                raise bad_request(f"map: {item} does not contain declared merge key: {key}")
            places = [i for i, present in enumerate(result) if present.get(key) == item[key]]
            if item.get("$patch") == "delete":
                result = [one for one in result if one.get(key) != item[key]]
            elif places:
                result[places[0]] = self.merge(schema, result[places[0]], item)
            else:
                result.append(self.merge(schema, {}, item))
        return result

    def _node(self, schema: Json, key: str) -> Json:
        found = schema.get("properties", {}).get(key) or schema.get("additionalProperties") or {}
        return self._schemas.resolve(found) if isinstance(found, dict) else {}

    def _merge_key(self, schema: Json, key: str) -> str | None:
        found: str | None = self._node(schema, key).get("x-kubernetes-patch-merge-key")
        return found


def _strategies(node: Json) -> list[str]:
    found: str = node.get("x-kubernetes-patch-strategy", "")
    return found.split(",")


def _ordered(
    items: list[Any], before: list[Any], order: list[Any], merge_key: str | None
) -> list[Any]:
    """Order the items of a merged list.

    Items named in the patch keep its order, the others keep theirs. Between the two, new items come
    first.
    """

    def name(item: Any) -> Any:
        return item.get(merge_key) if merge_key else item

    places = [name(item) for item in before]
    wanted = [name(item) for item in order]
    first = sorted((i for i in items if name(i) in wanted), key=lambda i: wanted.index(name(i)))
    rest = [item for item in items if name(item) not in wanted]
    result = []
    while first and rest:
        one = name(first[0])
        earlier = one not in places or places.index(one) < places.index(name(rest[0]))
        result.append(first.pop(0) if earlier else rest.pop(0))
    return result + first + rest


def remove_path(content: Any, path: str) -> None:
    """Remove what stands at a path such as `spec.containers[0].imge`, where it is there."""
    parts = re.findall(r"\[(\d+)\]|([^.\[\]]+)", path)
    for index, name in parts[:-1]:
        content = content[int(index)] if index else content.get(name, {})
    if isinstance(content, dict):
        content.pop(parts[-1][1], None)
