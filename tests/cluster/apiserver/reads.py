"""Get and list: from stored objects to the body of an answer."""

from __future__ import annotations

import base64
import json

from tests.cluster.apiserver.calls import Call
from tests.cluster.apiserver.errors import ApiError, bad_request, expired, not_found, too_new
from tests.cluster.apiserver.resources import Json, Resource
from tests.cluster.apiserver.selectors import selection
from tests.cluster.apiserver.store import Store, Stored, encode
from tests.cluster.apiserver.tables import Tables


class Reader:
    """Answers reads with JSON."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, call: Call, tables: Tables | None) -> bytes:
        found = self._store.get(call.resource, call.namespace, call.name)
        if found is None:
            raise not_found(call.resource, call.name)
        return encode(tables.table(call, [found]) if tables else found)

    def list(self, call: Call, tables: Tables | None) -> bytes:
        """The selected objects, or a page of them."""
        self._check_version(call)
        found = self.selected(call)
        limit = int(call.query.get("limit") or 0)
        version, start = self._start(call)
        page = [one for one in found if one.key > start] if start else found
        metadata: Json = {"resourceVersion": str(version)}
        if limit and len(page) > limit:
            metadata["continue"] = _token(version, page[limit - 1])
            metadata["remainingItemCount"] = len(page) - limit
            page = page[:limit]
        if tables is None:
            return _list(call.resource, metadata, page)
        table = tables.table(call, [one.content for one in page])
        return encode(table | {"metadata": metadata})

    def selected(self, call: Call) -> list[Stored]:
        """What a list's or deletecollection's selectors choose."""
        query = call.query
        matches = selection(
            call.resource, query.get("labelSelector", ""), query.get("fieldSelector", "")
        )
        found = self._store.all(call.resource, call.namespace)
        return found if matches is None else [one for one in found if matches(one.content)]

    def _check_version(self, call: Call) -> None:
        given, match = call.query.get("resourceVersion", ""), call.query.get("resourceVersionMatch")
        if not given.isdigit():
            if given:
                raise bad_request(f"invalid resource version: {given}")
            return
        version = int(given)
        if version > self._store.version:
            raise too_new(version, self._store.version)
        if match == "Exact" and version != self._store.version:
            raise expired(version, self._store.version)

    def _start(self, call: Call) -> tuple[int, tuple[str, str] | None]:
        """The version that a list carries, and the object that its page starts after."""
        token = call.query.get("continue")
        if not token:
            return self._store.version, None
        try:
            decoded = json.loads(base64.urlsafe_b64decode(token))
            version, start = decoded["version"], tuple(decoded["after"])
        except (ValueError, KeyError) as error:
            raise bad_request("continue key is not valid") from error
        try:
            self._store.since(call.resource, version)
        except ApiError as error:
            message = "The provided continue parameter is too old to display a consistent list."
            raise ApiError(410, "Expired", message) from error
        return version, start


def _token(version: int, last: Stored) -> str:
    text = json.dumps({"version": version, "after": last.key})
    return base64.urlsafe_b64encode(text.encode()).decode()


def _list(resource: Resource, metadata: Json, page: list[Stored]) -> bytes:
    """The items of a built-in list do not say what they are; its own kind does."""
    kind, version = resource.list_kind or f"{resource.kind}List", resource.api_version
    head = json.dumps({"kind": kind, "apiVersion": version, "metadata": metadata}).encode()
    items = [one.encoded for one in page]
    if not resource.custom:
        known = f'{{"kind":"{resource.kind}","apiVersion":"{resource.api_version}",'.encode()
        items = [b"{" + item.removeprefix(known).removeprefix(b"{") for item in items]
    return head[:-1] + b',"items":[' + b",".join(items) + b"]}"
