"""Get and list: from stored objects to the body of an answer."""

from __future__ import annotations

import base64
import json

from tests.cluster.apiserver.errors import ApiError, bad_request, expired, not_found, too_new
from tests.cluster.apiserver.representations import Representation
from tests.cluster.apiserver.requests import ApiRequest
from tests.cluster.apiserver.resources import Json
from tests.cluster.apiserver.selectors import selection
from tests.cluster.apiserver.store import Store, Stored


class Reader:
    """Answers reads with JSON."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, call: ApiRequest, form: Representation) -> bytes:
        stored = self._store.get(call.resource, call.namespace, call.name)
        if stored is None:
            raise not_found(call.resource, call.name)
        return form.one(call.resource, Stored(stored))

    def page(self, call: ApiRequest, form: Representation) -> bytes:
        """The selected objects, or a page of them."""
        self._check_version(call)
        selected = self.selected(call)
        limit = call.number("limit")
        version, start = self._start(call)
        page = [one for one in selected if one.key > start] if start else selected
        metadata: Json = {"resourceVersion": str(version)}
        if limit and len(page) > limit:
            metadata["continue"] = _token(version, page[limit - 1])
            metadata["remainingItemCount"] = len(page) - limit
            page = page[:limit]
        return form.many(call.resource, metadata, page)

    def selected(self, call: ApiRequest) -> list[Stored]:
        """What a list's or deletecollection's selectors choose."""
        query = call.query
        matches = selection(
            call.resource, query.get("labelSelector", ""), query.get("fieldSelector", "")
        )
        stored = self._store.all(call.resource, call.namespace)
        return stored if matches is None else [one for one in stored if matches(one.content)]

    def _check_version(self, call: ApiRequest) -> None:
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

    def _start(self, call: ApiRequest) -> tuple[int, tuple[str, str] | None]:
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
