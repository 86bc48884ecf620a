"""Requests from the event loop to the engine's thread, and their events back."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

from dreambooth_trainer.serving.engine.engine import Engine
from dreambooth_trainer.serving.engine.queue import (
    BatchKey,
    Event,
    Failed,
    Finished,
    ModelUse,
    Partial,
    Ticket,
)
from dreambooth_trainer.serving.metrics import ServingMetrics

UNREAD_EVENTS = 16
"""Partial images are left out while so many events wait for a client that reads slowly."""


class Stream:
    """One request: submitted when it is made, and cancelled when it is closed.

    Args:
        engine: Makes its images.
        metrics: Counts.
        key: What its images need.
        use: The result that they are made of.
        prompt: Of all its images.
        seeds: Of each image.
        partials: Partial images of each image.
        timeout: Seconds for all of it.

    Raises:
        QueueClosedError: No more requests are taken.
        QueueFullError: Too many images wait.
    """

    def __init__(
        self,
        engine: Engine,
        metrics: ServingMetrics,
        key: BatchKey,
        use: ModelUse,
        prompt: str,
        seeds: Sequence[int],
        partials: int,
        timeout: float,
    ) -> None:
        self._metrics = metrics
        self._began = time.monotonic()
        self._timeout = timeout
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def send(event: Event) -> None:
            if isinstance(event, Partial) and self._events.qsize() >= UNREAD_EVENTS:
                return
            # From the engine's thread; a loop that is closed has nobody who waits.
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._events.put_nowait, event)

        self._ticket = Ticket(key, use, prompt, seeds, partials, send)
        engine.submit(self._ticket)

    async def events(self) -> AsyncIterator[Event]:
        """All events, until every image is finished or the request has failed."""
        left, is_first = len(self._ticket.seeds), True
        try:
            while left:
                try:
                    remaining = self._began + self._timeout - time.monotonic()
                    event = await asyncio.wait_for(self._events.get(), max(remaining, 0))
                except TimeoutError:
                    yield Failed(f"not done within {self._timeout:g} seconds", 504)
                    return
                if is_first:
                    self._metrics.first_event_seconds.observe(time.monotonic() - self._began)
                    is_first = False
                yield event
                if isinstance(event, Failed):
                    return
                left -= isinstance(event, Finished)
            self._metrics.seconds.observe(time.monotonic() - self._began)
        finally:
            self.close()

    def close(self) -> None:
        """Nobody waits for the rest any more; to be called from the event loop."""
        self._ticket.cancelled = True
        # Images that are dropped from the queue have no other event.
        self._events.put_nowait(Failed("the client has left", 499))
