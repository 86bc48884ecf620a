"""Watches: changes as a stream of events, one JSON object per line."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator

from tests.cluster.apiserver.errors import ApiError, bad_request
from tests.cluster.apiserver.representations import Representation
from tests.cluster.apiserver.requests import ApiRequest
from tests.cluster.apiserver.resources import Json, Resource
from tests.cluster.apiserver.selectors import Predicate, selection
from tests.cluster.apiserver.store import Change, Store, Stored, encode

BOOKMARK_SECONDS = 60.0
INITIAL_EVENTS_END = "k8s.io/initial-events-end"


class Watch:
    """One client's stream of what happens to the objects that it selected."""

    def __init__(self, store: Store, call: ApiRequest, form: Representation) -> None:
        self._store = store
        self._call = call
        self._form = form
        self._matches = selection(
            call.resource, call.query.get("labelSelector", ""), call.query.get("fieldSelector", "")
        )
        self._changes: asyncio.Queue[Change | None] = asyncio.Queue()
        self.silent = False
        """Nothing is sent any more, and the stream does not end: a connection that is half dead."""

    @property
    def agent(self) -> str:
        """User-Agent of the client."""
        return self._call.user_agent

    def close(self) -> None:
        """End the stream after what has happened so far."""
        self._changes.put_nowait(None)

    def _take(self, change: Change | None) -> None:
        self._changes.put_nowait(change)

    async def events(self) -> AsyncIterator[bytes]:
        """The lines of the stream; the end of the iterator is the end of the stream."""
        try:
            lines = list(self._first())
        except ApiError as error:
            yield _line("ERROR", encode(error.status))
            return
        self._store.subscribe(self._call.resource, self._take)
        try:
            for line in lines:
                yield line
            async for line in self._following():
                yield line
        finally:
            self._store.unsubscribe(self._call.resource, self._take)

    def _first(self) -> list[bytes]:
        """What is there already, or what happened after the version that the client knows."""
        query, resource = self._call.query, self._call.resource
        version = query.get("resourceVersion", "")
        initial = self._call.flag("sendInitialEvents")
        if initial and query.get("resourceVersionMatch") != "NotOlderThan":
            raise bad_request("sendInitialEvents needs resourceVersionMatch=NotOlderThan")
        if initial or version in ("", "0"):
            found = self._store.all(resource, self._call.namespace)
            lines = [self._rendered("ADDED", one) for one in found if self._selects(one)]
            if initial and self._call.flag("allowWatchBookmarks"):
                lines.append(self._bookmark(**{INITIAL_EVENTS_END: "true"}))
            return lines
        known = self._store.since(resource, self._call.number("resourceVersion"))
        return [line for change in known if (line := self._event(change))]

    async def _following(self) -> AsyncIterator[bytes]:
        seconds = self._call.number("timeoutSeconds") or random.uniform(1800, 3600)
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        bookmarks = self._call.flag("allowWatchBookmarks")
        while True:
            wait = None if self.silent else min(end - loop.time(), BOOKMARK_SECONDS)
            try:
                change = await asyncio.wait_for(self._changes.get(), wait)
            except TimeoutError:
                if self.silent:
                    continue
                if bookmarks and self._changes.empty():  # it says that all before it was sent
                    yield self._bookmark()
                if loop.time() >= end:
                    return
                continue
            if change is None:
                return
            line = None if self.silent else self._event(change)
            if line:
                yield line

    def _selects(self, stored: Stored | None) -> bool:
        if stored is None or self._call.namespace not in ("", stored.key[0]):
            return False
        matches: Predicate | None = self._matches
        return matches is None or matches(stored.content)

    def _event(self, change: Change) -> bytes | None:
        """The event as this client sees it: what stops to match is deleted for it."""
        before = self._selects(change.old)
        now = change.kind != "DELETED" and self._selects(change.new)
        if now:
            return self._rendered("MODIFIED" if before else "ADDED", change.new)
        return self._rendered("DELETED", change.new) if before else None

    def _rendered(self, kind: str, stored: Stored) -> bytes:
        return _line(kind, self._form.one(self._call.resource, stored))

    def _bookmark(self, **annotations: str) -> bytes:
        resource: Resource = self._call.resource
        found: Json = {"resourceVersion": str(self._store.version)}
        if annotations:
            found["annotations"] = annotations
        content = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": found}
        return _line("BOOKMARK", json.dumps(content).encode())


def _line(kind: str, encoded: bytes) -> bytes:
    return b'{"type":"' + kind.encode() + b'","object":' + encoded + b"}\n"
