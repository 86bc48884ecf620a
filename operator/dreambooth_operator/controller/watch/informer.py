"""Keeps the cache up to date, from watch events and lists, and queues the jobs that changed.

A watch may end unnoticed, and after a gap kopf does not report what was deleted meanwhile. So
everything is listed at the start and at regular intervals, and compared with the cache (a resync).

An API server whose etcd was restored from a backup has lower versions than the cache, and a watch
from a version of the future delivers nothing: the process has to start anew.

A namespace that cannot be listed, because it or its RoleBinding was deleted, stops only its own
jobs.
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
from dreambooth_operator.controller.kube.kinds import DREAMBOOTH_JOB, POD, WATCHED, Kind
from dreambooth_operator.controller.kube.objects import Body, Key, ObjectId, identify
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
        on_restored: Callable[[], None],
        lag_seconds: float = LAG_SECONDS,
    ) -> None:
        """Create an informer; no `namespaces` means all.

        `on_repair` gets the number of changes a watch had missed. `on_restored` is called when the
        API server's versions have gone back, and must end the process.
        """
        self._api = api
        self._cache = cache
        self._queue = queue
        # None: one list of the whole cluster.
        self._namespaces: Collection[str | None] = namespaces or [None]
        self._on_repair = on_repair
        self._on_restored = on_restored
        self._lag = lag_seconds
        self._listed = asyncio.Event()
        self._incomplete = set(self._namespaces)
        """Namespaces that have not been listed as a whole yet: their jobs wait."""
        self._versions: dict[tuple[str | None, Kind], int] = {}
        """resourceVersion of the last list of a kind in a namespace (meta/v1 ListMeta)."""
        self._problems: dict[tuple[str | None, Kind], str] = {}
        """Why a kind cannot be listed in a namespace."""
        self.watches = {kind: WatchHealth() for kind in WATCHED}

    @property
    def failing_namespaces(self) -> int:
        """Number of namespaces that cannot be listed."""
        return len({namespace for namespace, _ in self._problems})

    def on_event(self, kind: Kind, event_type: str | None, body: Body) -> None:
        """Handle a watch event (meta/v1 WatchEvent); kopf's initial list has no event type."""
        self.watches[kind].confirmed = time.monotonic()
        # The event of a deletion holds the last state. kopf passes on only the newest of several
        # events in a row, so this may be all that shows how a pod ended.
        if event_type != "DELETED" or kind is POD:
            self._update(kind, body)
        if event_type == "DELETED" and (known := identify(body)):
            self._remove(kind, known)

    async def list_all(self) -> None:
        """List everything into the cache; retries until that succeeds for a namespace.

        It retries every `RETRY_SECONDS`; a namespace that cannot be listed yet is left to `run`.
        """
        while True:
            listed = [await self._list(namespace) for namespace in self._namespaces]
            if any(listed):
                self._listed.set()
                return
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
            for namespace in tuple(self._incomplete):
                await self._list(namespace)
            for kind in WATCHED:
                try:
                    await self.resync(kind)
                except Exception:
                    logger.exception("%s could not be compared with the cache", kind.plural)

    async def resync(self, kind: Kind) -> int:
        """Compare one kind with the cache, and apply what its watch does not deliver soon.

        Returns:
            The number of changes that the watch had missed.
        """
        newer: list[Manifest] = []
        gone: list[ObjectId] = []
        watch = self.watches[kind]
        for namespace in self._namespaces:
            if namespace in self._incomplete:
                continue
            found = await self._compare_or_report(kind, namespace, newer.append)
            if found is not None:
                gone += found
                watch.listed = time.monotonic()
        if newer or gone:
            # Watch events of recent changes may still be on their way: only what is missing then
            # was missed.
            await asyncio.sleep(self._lag)
        missed = sum(self._update(kind, body) for body in newer)
        missed += sum(self._remove(kind, object_id) for object_id in gone)
        if missed:
            watch.misses += 1
            logger.warning("the watch of %s had missed %d changes", kind.plural, missed)
            self._on_repair(kind, missed)
        else:
            watch.misses = 0
            watch.confirmed = time.monotonic()
        return missed

    def _update(self, kind: Kind, body: Body) -> bool:
        """Update the cache; returns whether that changed it."""
        return self._enqueue(kind, self._cache.update(kind, body))

    def _remove(self, kind: Kind, gone: ObjectId) -> bool:
        """Remove an object from the cache; returns whether that changed it."""
        key = self._cache.remove(kind, gone.namespace, gone.name, gone.uid)
        return self._enqueue(kind, key)

    def _enqueue(self, kind: Kind, key: Key | None) -> bool:
        if key is None:
            return False
        if key.namespace not in self._incomplete:
            self._queue.add(key, after=0 if kind is DREAMBOOTH_JOB else BATCH_SECONDS)
        return True

    async def _list(self, namespace: str | None) -> bool:
        """List all kinds of a namespace into the cache; whether that succeeded.

        From the first success on, its jobs are reconciled. Before, a child that is not in the cache
        yet would count as deleted.
        """
        for kind in WATCHED:
            update = functools.partial(self._update, kind)
            gone = await self._compare_or_report(kind, namespace, update)
            if gone is None:
                return False
            for object_id in gone:
                self._remove(kind, object_id)
            self.watches[kind] = WatchHealth()
        if namespace in self._incomplete:
            self._incomplete.remove(namespace)
            for job in self._cache.dreambooth_jobs():
                if namespace in (None, job.key.namespace):
                    self._queue.add(job.key)
        return True

    async def _compare_or_report(
        self, kind: Kind, namespace: str | None, on_newer: Callable[[Manifest], object]
    ) -> list[ObjectId] | None:
        """`_compare`; None if the kind cannot be listed, which is logged once for each reason."""
        try:
            gone = await self._compare(kind, namespace, on_newer)
        except errors.ApiError as error:
            problem = _describe(error)
            if self._problems.get((namespace, kind)) != problem:
                self._problems[namespace, kind] = problem
                where = f"namespace {namespace}" if namespace else "all namespaces"
                waits = "not started yet: " if namespace in self._incomplete else ""
                logger.warning(
                    "%s%s in %s cannot be listed: %s", waits, kind.plural, where, problem
                )
            return None
        self._problems.pop((namespace, kind), None)
        return gone

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
        newest = max((snapshot.version for snapshot in cached.values()), default=0)
        newest = max(newest, self._versions.get((namespace, kind), 0))
        version, went_back = 0, False
        async for page in self._api.pages(kind, namespace):
            version = page.version
            for body in page.items:
                known = identify(body)
                snapshot = cached.pop((known.namespace, known.name), None) if known else None
                # Versions are compared as numbers: etcd's revision, and a documented guarantee
                # since 1.35.
                if snapshot is None or known is None or snapshot.version < known.version:
                    on_newer(body)
                else:
                    went_back |= known.version < snapshot.version
        # A list is never older than what was known before it began.
        if went_back or version < newest:
            logger.critical(
                "the versions of %s went back: etcd was restored from a backup", kind.plural
            )
            self._on_restored()
        self._versions[namespace, kind] = version
        # An object that is newer than the list was created while the list was read.
        return [
            ObjectId(*name, snapshot.uid, snapshot.version)
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
