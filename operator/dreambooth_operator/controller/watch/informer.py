"""Keeps the cache up to date, from watch events and lists, and queues the jobs that changed.

A watch may end unnoticed, and after a gap kopf does not report what was deleted meanwhile. So
everything is listed at the start and at regular intervals, and compared with the cache (a resync).
"""

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field

from dreambooth_operator.controller.kube import errors
from dreambooth_operator.controller.kube.client import Api
from dreambooth_operator.controller.kube.kinds import DREAMBOOTH_JOB, WATCHED, Kind
from dreambooth_operator.controller.kube.snapshots import Body, Key
from dreambooth_operator.controller.watch.cache import Cache
from dreambooth_operator.controller.watch.queue import Queue
from dreambooth_operator.manifests.names import Manifest

logger = logging.getLogger(__name__)

BATCH_SECONDS = 0.2
"""Changes of a job's children seldom come alone: they are reconciled together."""
RETRY_SECONDS = 3.0
"""Wait after a list that failed before everything is listed for the first time."""
FIRST_RESYNC_SECONDS = 15.0
"""Longest wait between the initial list and the first resync."""
LAG_SECONDS = 5.0
"""A change that a watch has not delivered after this time counts as missed."""

ObjectId = tuple[str, str, str]
"""Namespace, name and uid of an object."""


@dataclass
class WatchHealth:
    """How well the watch of a kind works. Times are in seconds, by time.monotonic()."""

    listed: float = field(default_factory=time.monotonic)
    """When the kind could be listed last."""
    confirmed: float = field(default_factory=time.monotonic)
    """When the watch was last known to work: it delivered an event, or had missed nothing."""
    misses: int = 0
    """Resyncs in a row that showed changes that the watch had missed."""


class Informer:
    """Updates the cache and adds the keys of changed jobs to the queue."""

    def __init__(
        self,
        api: Api,
        cache: Cache,
        queue: Queue[Key],
        namespaces: Collection[str],
        on_repair: Callable[[Kind, int], None],
        lag_seconds: float = LAG_SECONDS,
    ) -> None:
        """No `namespaces` means all; `on_repair` gets the number of changes a watch had missed."""
        self._api = api
        self._cache = cache
        self._queue = queue
        # None: one list of the whole cluster.
        self._namespaces: Collection[str | None] = namespaces or [None]
        self._on_repair = on_repair
        self._lag = lag_seconds
        self._listed = asyncio.Event()
        self.watches = {kind: WatchHealth() for kind in WATCHED}

    def on_event(self, kind: Kind, event_type: str | None, body: Body) -> None:
        """Handle a watch event (meta/v1 WatchEvent); kopf's initial list has no event type."""
        self.watches[kind].confirmed = time.monotonic()
        if event_type == "DELETED":
            meta = body["metadata"]
            self._remove(kind, meta["namespace"], meta["name"], meta["uid"])
        else:
            self._update(kind, body)

    async def list_all(self) -> None:
        """List everything into the cache; after an `ApiError` it retries every `RETRY_SECONDS`."""
        last_problem = ""
        while True:
            try:
                for kind in WATCHED:
                    await self._list(kind)
                self._listed.set()
                return
            except errors.ApiError as error:
                problem = _describe(error)
                # Once for each problem, and not every few seconds for as long as the CRD is
                # missing.
                if problem != last_problem:
                    logger.warning("not started yet: %s", problem)
                last_problem = problem
                await asyncio.sleep(RETRY_SECONDS)

    async def run(self, resync_seconds: float) -> None:
        """Resync every `resync_seconds`, and soon after each `list_all`; until cancelled.

        A kind that cannot be listed is logged and skipped: no `ApiError` is raised.
        """
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(resync_seconds):
                    await self._listed.wait()
                # No watch reports what was deleted between the initial list and the watch's start.
                await asyncio.sleep(min(FIRST_RESYNC_SECONDS, resync_seconds))
            self._listed.clear()
            for kind in WATCHED:
                try:
                    await self.resync(kind)
                except errors.ApiError as error:
                    logger.warning("%s could not be listed: %s", kind.plural, error)

    async def resync(self, kind: Kind) -> int:
        """Compare one kind with the cache, and apply what its watch does not deliver soon.

        Returns:
            The number of changes that the watch had missed.

        Raises:
            ApiError: The kind cannot be listed.
        """
        newer: list[Manifest] = []
        gone = [
            object_id
            for namespace in self._namespaces
            for object_id in await self._compare(kind, namespace, newer.append)
        ]
        watch = self.watches[kind]
        watch.listed = time.monotonic()
        if newer or gone:
            # Watch events of recent changes may still be on their way: only what is missing then
            # was missed.
            await asyncio.sleep(self._lag)
        missed = sum(self._update(kind, body) for body in newer)
        missed += sum(self._remove(kind, *object_id) for object_id in gone)
        if missed:
            watch.misses += 1
            logger.warning("the watch of %s had missed %d changes", kind.plural, missed)
            self._on_repair(kind, missed)
        else:
            watch.misses = 0
            watch.confirmed = time.monotonic()
        return missed

    def _update(self, kind: Kind, body: Body) -> bool:
        """Update the cache; returns whether that changed it.

        An object that cannot be read is left out: it must not stop the operator for all others.
        """
        try:
            key = self._cache.update(kind, body)
        except Exception:
            meta = body["metadata"]
            logger.exception("%s %s/%s is ignored", kind.name, meta["namespace"], meta["name"])
            return False
        return self._enqueue(kind, key)

    def _remove(self, kind: Kind, namespace: str, name: str, uid: str) -> bool:
        """Remove an object from the cache; returns whether that changed it."""
        return self._enqueue(kind, self._cache.remove(kind, namespace, name, uid))

    def _enqueue(self, kind: Kind, key: Key | None) -> bool:
        if key is None:
            return False
        self._queue.add(key, after=0 if kind is DREAMBOOTH_JOB else BATCH_SECONDS)
        return True

    async def _list(self, kind: Kind) -> None:
        for namespace in self._namespaces:
            update = functools.partial(self._update, kind)
            for object_id in await self._compare(kind, namespace, update):
                self._remove(kind, *object_id)
        self.watches[kind] = WatchHealth()

    async def _compare(
        self, kind: Kind, namespace: str | None, on_newer: Callable[[Manifest], object]
    ) -> list[ObjectId]:
        """List a kind page by page: `on_newer` gets each object that the cache has not, or older.

        Returns:
            The objects in the cache that no longer exist.
        """
        cached = {
            name: snapshot
            for name, snapshot in self._cache.objects(kind).items()
            if namespace in (None, name[0])
        }
        version = 0
        async for page in self._api.pages(kind, namespace):
            version = page.version
            for body in page.items:
                meta = body["metadata"]
                snapshot = cached.pop((meta["namespace"], meta["name"]), None)
                # Versions are compared as numbers: etcd's revision, and a documented guarantee
                # since 1.35.
                if snapshot is None or snapshot.version < int(meta["resourceVersion"]):
                    on_newer(body)
        # An object that is newer than the list was created while the list was read.
        return [
            (*name, snapshot.uid)
            for name, snapshot in cached.items()
            if snapshot.version <= version
        ]


def _describe(error: errors.ApiError) -> str:
    if isinstance(error, errors.NotFoundError):
        return (
            f"the API server knows no {DREAMBOOTH_JOB.plural}; apply the CRD"
            f" {DREAMBOOTH_JOB.plural}.{DREAMBOOTH_JOB.group}"
        )
    return str(error)
