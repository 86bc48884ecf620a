"""Lists everything, at the start and regularly after that, and mends what the watches have missed.

A watch may end unnoticed, and after a gap kopf does not tell what vanished meanwhile.
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
from dreambooth_operator.controller.watch.cache import Store
from dreambooth_operator.controller.watch.intake import Intake
from dreambooth_operator.manifests.names import Manifest

logger = logging.getLogger(__name__)

RETRY_SECONDS = 3.0
SOON_SECONDS = 15.0
Place = tuple[str, str, str]
"""Namespace, name and uid of an object."""

LAG_SECONDS = 5.0
"""A watch that is this far behind has missed something."""


@dataclass
class Watch:
    """How well the watch of a kind works."""

    listed: float = field(default_factory=time.monotonic)
    """When the kind could be listed last, by time.monotonic()."""
    misses: int = 0
    """Resyncs in a row that found what the watch had missed."""


class Resync:
    """Compares the store with lists of the cluster."""

    def __init__(
        self,
        api: Api,
        store: Store,
        intake: Intake,
        namespaces: Collection[str],
        repaired: Callable[[Kind, int], None],
        lag_seconds: float = LAG_SECONDS,
    ) -> None:
        self._api = api
        self._store = store
        self._intake = intake
        self._namespaces: Collection[str | None] = namespaces or [None]
        self._repaired = repaired
        self._lag = lag_seconds
        self._filled = asyncio.Event()
        self.watches = {kind: Watch() for kind in WATCHED}

    async def fill(self) -> None:
        """List everything into the store; returns when that worked, however long it takes."""
        told = ""
        while True:
            try:
                for kind in WATCHED:
                    await self._fill(kind)
                self._filled.set()
                return
            except errors.ApiError as error:
                problem = _why_not_yet(error)
                if problem != told:
                    logger.warning("not started yet: %s", problem)
                told = problem
                await asyncio.sleep(RETRY_SECONDS)

    async def run(self, every_seconds: float) -> None:
        """Compare regularly, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(every_seconds):
                    await self._filled.wait()
                # What vanished before the watches began was listed, and nobody tells of it.
                await asyncio.sleep(min(SOON_SECONDS, every_seconds))
            self._filled.clear()
            for kind in WATCHED:
                try:
                    await self.compare(kind)
                except errors.ApiError as error:
                    logger.warning("%s could not be listed: %s", kind.plural, error)

    async def compare(self, kind: Kind) -> int:
        """Compare one kind, and repair what the watch does not deliver soon; returns how much.

        Raises an `ApiError` when the kind cannot be listed.
        """
        late: list[Manifest] = []
        gone = [
            place
            for namespace in self._namespaces
            for place in await self._compare(kind, namespace, late.append)
        ]
        watch = self.watches[kind]
        watch.listed = time.monotonic()
        if late or gone:
            await asyncio.sleep(self._lag)
        repairs = sum(self._intake.put(kind, body) for body in late)
        repairs += sum(self._intake.remove(kind, *place) for place in gone)
        if repairs:
            watch.misses += 1
            logger.warning("the watch of %s had missed %d changes", kind.plural, repairs)
            self._repaired(kind, repairs)
        else:
            watch.misses = 0
            self._intake.heard[kind] = time.monotonic()
        return repairs

    async def _fill(self, kind: Kind) -> None:
        for namespace in self._namespaces:
            put = functools.partial(self._intake.put, kind)
            for place in await self._compare(kind, namespace, put):
                self._intake.remove(kind, *place)
        self.watches[kind] = Watch()
        self._intake.heard[kind] = time.monotonic()

    async def _compare(
        self, kind: Kind, namespace: str | None, late: Callable[[Manifest], object]
    ) -> list[Place]:
        """Tell `late` of what is newer than what is known; returns what is known and gone."""
        known = {
            place: view
            for place, view in self._store.known(kind).items()
            if namespace in (None, place[0])
        }
        version = 0
        async for page in self._api.pages(kind, namespace):
            version = page.version
            for body in page.items:
                meta = body["metadata"]
                view = known.pop((meta["namespace"], meta["name"]), None)
                if view is None or view.version < int(meta["resourceVersion"]):
                    late(body)
        # What is newer than the list came while it was made.
        return [(*place, view.uid) for place, view in known.items() if view.version <= version]


def _why_not_yet(error: errors.ApiError) -> str:
    if isinstance(error, errors.NotFoundError):
        return (
            f"the API server knows no {DREAMBOOTH_JOB.plural}; apply the CRD"
            f" {DREAMBOOTH_JOB.plural}.{DREAMBOOTH_JOB.group}"
        )
    return str(error)
