"""A queue of keys: each is handled by one worker at a time, and comes back when that failed."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from tests.cluster.client import TRANSIENT, ApiError
from tests.cluster.controllers.resource import CONFLICT, NOT_FOUND

log = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)

BATCH_SECONDS = 0.05
"""A key waits this long, so that the changes of one moment are looked at once."""


class Queue(Generic[Key]):
    """Keys, and `handle`, which looks at everything about a key and does what is to be done.

    `handle` may return the number of seconds after which it wants to look again.
    """

    def __init__(self, handle: Callable[[Key], Awaitable[float | None]], workers: int = 8) -> None:
        self._handle = handle
        self._workers = workers
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._ready: asyncio.Queue[Key] = asyncio.Queue()
        self._queued: set[Key] = set()
        self._running: set[Key] = set()
        self._failures: dict[Key, int] = {}

    def add(self, key: Key, after: float = BATCH_SECONDS) -> None:
        """Handle `key` in `after` seconds, or earlier if that was asked for before."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= loop.time() + after:
                return
            timer.cancel()
        self._timers[key] = loop.call_later(after, self._due, key)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self._workers):
                group.create_task(self._work())

    def _due(self, key: Key) -> None:
        del self._timers[key]
        if key in self._running:
            self.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._ready.put_nowait(key)

    async def _work(self) -> None:
        while True:
            key = await self._ready.get()
            self._queued.discard(key)
            self._running.add(key)
            again = await self._try(key)
            self._running.discard(key)
            if again is not None:
                self.add(key, again)

    async def _try(self, key: Key) -> float | None:
        try:
            again = await self._handle(key)
        except Exception as error:  # a controller goes on whatever one object does to it
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            _tell(key, error)
            return float(min(0.05 * 2**failures, 5))
        self._failures.pop(key, None)
        return again


def _tell(key: object, error: Exception) -> None:
    if isinstance(error, ApiError) and error.code in (CONFLICT, NOT_FOUND):
        return  # someone wrote or deleted at the same time: news of it is on its way
    expected = isinstance(error, (ApiError, *TRANSIENT))
    log.warning("%s: %s", key, error or type(error).__name__, exc_info=None if expected else error)
