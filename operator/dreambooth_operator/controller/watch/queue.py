"""A work queue like client-go's: each key once, one worker at a time, a back-off after errors."""

import asyncio
import random
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

# A conflict is over within a second; an API server that is down is asked once a minute per job.
FIRST_BACKOFF_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 60.0


@dataclass(slots=True)
class _Backoff:
    """The errors of a key in a row, and when it may be retried."""

    errors: int
    until: float


class Queue(Generic[K]):
    """Keys that are due, each at most once, in the order in which they became due.

    A key that is added while it is being worked on becomes due again when that is done. All times
    are seconds of the running event loop's clock.
    """

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        self._jitter = jitter
        self._ready: asyncio.Queue[K] = asyncio.Queue()
        self._since: dict[K, float] = {}
        """When each ready key became due."""
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._active: set[K] = set()
        self._again: dict[K, float] = {}
        """When keys that are being worked on are due again."""
        self._backoffs: dict[K, _Backoff] = {}

    def add(self, key: K, after: float = 0.0) -> None:
        """Make a key due after `after` seconds; of several times, the earliest counts.

        After an error the key waits for its back-off in any case.
        """
        due = asyncio.get_running_loop().time() + after
        backoff = self._backoffs.get(key)
        self._add_at(key, max(due, backoff.until) if backoff else due)

    async def get(self) -> K:
        """Wait for the next due key. The caller must call `done` or `failed` with it.

        Until then no other worker gets the key, so that a job is never reconciled twice at a time.
        """
        key = await self._ready.get()
        del self._since[key]
        self._active.add(key)
        return key

    def done(self, key: K) -> None:
        """End the work on a key without an error: its back-off starts at 1 second again."""
        self._backoffs.pop(key, None)
        self._finish(key)

    def failed(self, key: K, retry_after: float = 0.0) -> float:
        """End the work on a key, to be retried after an exponential back-off with jitter.

        Returns:
            Seconds until the retry, at least `retry_after`.
        """
        errors = self._backoffs[key].errors + 1 if key in self._backoffs else 1
        delay = max(self._delay(errors), retry_after)
        until = asyncio.get_running_loop().time() + delay
        self._backoffs[key] = _Backoff(errors, until)
        self._again[key] = until
        self._finish(key)
        return delay

    @property
    def depth(self) -> int:
        """Number of keys that are due and wait for a worker."""
        return len(self._since)

    @property
    def oldest_age(self) -> float:
        """Seconds for which the first due key has waited; 0 if there is none."""
        first = next(iter(self._since.values()), None)
        return 0.0 if first is None else asyncio.get_running_loop().time() - first

    def _delay(self, errors: int) -> float:
        # The exponent is bounded, as a float overflows after a thousand errors.
        longest = min(FIRST_BACKOFF_SECONDS * 2.0 ** min(errors - 1, 16), MAX_BACKOFF_SECONDS)
        # Jobs that failed together, as when the API server went down, are not all retried together.
        return longest * (0.5 + 0.5 * self._jitter())

    def _add_at(self, key: K, due: float) -> None:
        if key in self._active:
            self._again[key] = min(due, self._again.get(key, due))
            return
        timer = self._timers.get(key)
        if key in self._since or (timer and timer.when() <= due):
            return
        if timer:
            self._timers.pop(key).cancel()
        loop = asyncio.get_running_loop()
        if due <= loop.time():
            self._make_ready(key)
        else:
            self._timers[key] = loop.call_at(due, self._on_timer, key)

    def _on_timer(self, key: K) -> None:
        del self._timers[key]
        self._make_ready(key)

    def _make_ready(self, key: K) -> None:
        self._since[key] = asyncio.get_running_loop().time()
        self._ready.put_nowait(key)

    def _finish(self, key: K) -> None:
        self._active.discard(key)
        due = self._again.pop(key, None)
        if due is not None:
            backoff = self._backoffs.get(key)
            self._add_at(key, max(due, backoff.until) if backoff else due)
