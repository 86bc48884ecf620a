"""Objects in memory, one counter of versions, and a bounded history of changes to watch.

Stored objects are never changed in place: a write puts a new one. So whoever holds one may read
it without a lock, and its JSON is made once.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from tests.cluster.apiserver.errors import expired
from tests.cluster.apiserver.resources import Json, Resource

Key = tuple[str, str]
"""Namespace ("" for what has none) and name."""


def encode(value: Json) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


class Stored:
    """An object as it is stored, with its JSON."""

    def __init__(self, content: Json) -> None:
        self.content = content

    @cached_property
    def encoded(self) -> bytes:
        return encode(self.content)

    @property
    def key(self) -> Key:
        metadata = self.content["metadata"]
        return metadata.get("namespace", ""), metadata["name"]

    @property
    def version(self) -> int:
        return int(self.content["metadata"]["resourceVersion"])


@dataclass(frozen=True)
class Change:
    """An object was written or removed; `new` of a removed one carries the version of its end."""

    kind: Literal["ADDED", "MODIFIED", "DELETED"]
    new: Stored
    old: Stored | None
    version: int


Subscriber = Callable[[Change | None], None]
"""Told of changes; None: there will be no more."""


class Store:
    """All objects, by resource."""

    def __init__(self, history: int = 20_000) -> None:
        self.version = 1
        self._objects: dict[str, dict[Key, Stored]] = defaultdict(dict)
        self._changes: dict[str, deque[Change]] = defaultdict(lambda: deque(maxlen=history))
        self._forgotten = 0
        self._subscribers: dict[str, list[Subscriber]] = defaultdict(list)

    def get(self, resource: Resource, namespace: str, name: str) -> Json | None:
        found = self._objects[resource.qualified].get((namespace, name))
        return found.content if found else None

    def all(self, resource: Resource, namespace: str = "") -> list[Stored]:
        """Objects by namespace and name; those of all namespaces when none is given."""
        objects = self._objects[resource.qualified]
        return [objects[key] for key in sorted(objects) if namespace in ("", key[0])]

    def named(self, qualified: str) -> list[Stored]:
        """Objects of a resource by its name, for example `priorityclasses.scheduling.k8s.io`."""
        return list(self._objects[qualified].values())

    def put(self, resource: Resource, content: Json) -> Json:
        """Store a new object or a new state of one; returns it with its version."""
        stored = self._versioned(content)
        objects = self._objects[resource.qualified]
        old = objects.get(stored.key)
        objects[stored.key] = stored
        self._publish(resource, Change("MODIFIED" if old else "ADDED", stored, old, stored.version))
        return stored.content

    def remove(self, resource: Resource, content: Json) -> Json:
        """Remove an object; returns its last state with the version of its end."""
        stored = self._versioned(content)
        old = self._objects[resource.qualified].pop(stored.key)
        self._publish(resource, Change("DELETED", stored, old, stored.version))
        return stored.content

    def _versioned(self, content: Json) -> Stored:
        self.version += 1
        metadata = content["metadata"] | {"resourceVersion": str(self.version)}
        return Stored(content | {"metadata": metadata})

    def _publish(self, resource: Resource, change: Change) -> None:
        self._changes[resource.qualified].append(change)
        for subscriber in list(self._subscribers[resource.qualified]):
            subscriber(change)

    def end(self, resource: Resource) -> None:
        """A resource is no longer served."""
        for subscriber in list(self._subscribers[resource.qualified]):
            subscriber(None)

    def since(self, resource: Resource, version: int) -> list[Change]:
        """What changed after a version; raises 410 when that is no longer known."""
        changes = self._changes[resource.qualified]
        full = len(changes) == changes.maxlen
        oldest = max(self._forgotten, changes[0].version - 1 if full else 0)
        if version < oldest:
            raise expired(version, oldest)
        return [change for change in changes if change.version > version]

    def forget_history(self) -> None:
        """Every version before the present one is too old to watch from."""
        self.version += 1
        self._forgotten = self.version
        for changes in self._changes.values():
            changes.clear()

    def subscribe(self, resource: Resource, subscriber: Subscriber) -> None:
        self._subscribers[resource.qualified].append(subscriber)

    def unsubscribe(self, resource: Resource, subscriber: Subscriber) -> None:
        self._subscribers[resource.qualified].remove(subscriber)
