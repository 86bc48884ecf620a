"""From the watches into the store, and the keys that it concerns onto the queue."""

import time

from dreambooth_operator.controller.kube.kinds import DREAMBOOTH_JOB, WATCHED, Kind
from dreambooth_operator.controller.kube.snapshots import Body, Key
from dreambooth_operator.controller.watch.cache import Store
from dreambooth_operator.controller.watch.queue import Queue

GATHER_SECONDS = 0.2
"""Changes of children seldom come alone: they are looked at, and reported, together."""


class Intake:
    """Where all that is heard of objects comes in."""

    def __init__(self, store: Store, queue: Queue[Key]) -> None:
        self._store = store
        self._queue = queue
        self.heard: dict[Kind, float] = dict.fromkeys(WATCHED, time.monotonic())
        """When each kind's watch was last known to work, by time.monotonic()."""

    def hear(self, kind: Kind, change: str | None, body: Body) -> None:
        """A watch told of an object; `change` is the type of the event, None when it was listed."""
        self.heard[kind] = time.monotonic()
        if change == "DELETED":
            meta = body["metadata"]
            self.remove(kind, meta["namespace"], meta["name"], meta["uid"])
        else:
            self.put(kind, body)

    def put(self, kind: Kind, body: Body) -> bool:
        """Take an object over; whether it was news."""
        return self._enqueue(kind, self._store.put(kind, body))

    def remove(self, kind: Kind, namespace: str, name: str, uid: str) -> bool:
        """An object is gone; whether it was news."""
        return self._enqueue(kind, self._store.remove(kind, namespace, name, uid))

    def _enqueue(self, kind: Kind, key: Key | None) -> bool:
        if key is None:
            return False
        self._queue.add(key, after=0 if kind is DREAMBOOTH_JOB else GATHER_SECONDS)
        return True
