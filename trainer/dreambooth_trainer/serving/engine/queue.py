"""Requests for images that wait and are under way: a bounded queue, and batches of it."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from PIL import Image

from dreambooth_api.models.prior import Sampler
from dreambooth_trainer.serving.catalog import Result


@dataclass(frozen=True)
class ModelUse:
    """A result, and the weight of its adapters."""

    result: Result
    """Not its name alone: a run that ends meanwhile may take that."""
    weight: float


@dataclass(frozen=True)
class BatchKey:
    """What images need to share to be made together."""

    base: str
    """The model that their results are adapters of; for a result that is made alone, its export."""
    sampler: Sampler
    steps: int
    guidance_scale: float
    negative_prompt: str
    width: int
    height: int


@dataclass(frozen=True)
class Partial:
    """An image that is not finished."""

    index: int
    number: int
    """Of this image's partial ones, from 0."""
    image: Image.Image


@dataclass(frozen=True)
class Finished:
    """An image."""

    index: int
    image: Image.Image


@dataclass(frozen=True)
class Failed:
    """The request has failed; nothing follows."""

    message: str
    status: int = 500
    """HTTP status."""


Event = Partial | Finished | Failed


@dataclass(eq=False)
class Ticket:
    """A request under way.

    Args:
        key: What its images need.
        use: The result that they are made of.
        prompt: Of all its images.
        seeds: Of each image.
        partials: How many partial images of each are sent.
        send: Called with its events, from the thread of the engine.
    """

    key: BatchKey
    use: ModelUse
    prompt: str
    seeds: Sequence[int]
    partials: int
    send: Callable[[Event], None]
    cancelled: bool = field(default=False)
    """Whether nobody waits for it any more."""

    def items(self) -> "list[Item]":
        """Its images."""
        return [Item(self, index) for index in range(len(self.seeds))]


@dataclass(frozen=True, eq=False)
class Item:
    """One image of a request."""

    ticket: Ticket
    index: int

    @property
    def seed(self) -> int:
        """Of its noise."""
        return self.ticket.seeds[self.index]


class QueueFullError(Exception):
    """Too many images wait; the number is its argument."""


class QueueClosedError(Exception):
    """No more requests are taken."""


class WorkQueue:
    """Images that wait, in the order in which they came. Thread-safe.

    Args:
        limit: Images that may wait.
        batch_size: Most images that are made together, for a key.
        models: Most results of which they are, for a key.
    """

    def __init__(
        self,
        limit: int,
        batch_size: Callable[[BatchKey], int],
        models: Callable[[BatchKey], int],
    ) -> None:
        self._limit = limit
        self._batch_size = batch_size
        self._models = models
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, ticket: Ticket) -> None:
        """Add a request.

        Raises:
            QueueClosedError: The queue is closed.
            QueueFullError: Its images would be more than may wait.
        """
        with self._changed:
            if self._closed:
                raise QueueClosedError
            self._drop_cancelled()
            waiting = len(self._items)
            if waiting + len(ticket.seeds) > self._limit:
                raise QueueFullError(waiting)
            self._items.extend(ticket.items())
            self._changed.notify()

    def take(self) -> list[Item]:
        """Wait for the next batch; empty: the queue is closed, and nothing waits."""
        with self._changed:
            while True:
                self._drop_cancelled()
                if self._items or self._closed:
                    break
                self._changed.wait()
            if not self._items:
                return []
            key = self._items[0].ticket.key
            batch = next_batch(self._items, self._batch_size(key), self._models(key))
            taken = set(batch)
            self._items = deque(item for item in self._items if item not in taken)
            return batch

    def close(self) -> None:
        """Take no more requests; those that wait are still made."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def drain(self) -> list[Item]:
        """Close the queue, and take all that waits."""
        with self._changed:
            self._closed = True
            waiting = list(self._items)
            self._items.clear()
            return waiting

    def _drop_cancelled(self) -> None:
        self._items = deque(item for item in self._items if not item.ticket.cancelled)


def next_batch(items: Iterable[Item], size: int, models: int) -> list[Item]:
    """The image that has waited longest, and those that can be made with it. Pure.

    They are of at most so many results, each with one weight.
    """
    waiting = list(items)
    key = waiting[0].ticket.key
    weights: dict[Result, float] = {}

    def fits(item: Item) -> bool:
        use = item.ticket.use
        if item.ticket.key != key or (use.result not in weights and len(weights) == models):
            return False
        return weights.setdefault(use.result, use.weight) == use.weight

    return list(islice(filter(fits, waiting), size))


def partial_steps(count: int, steps: int) -> list[int]:
    """After which of the denoising steps, from 1, partial images are sent. Pure.

    The first after two steps, then evenly; none after the last step, whose image is finished.
    """
    first = min(2, steps - 1)
    planned = {first + round(number * (steps - first) / count) for number in range(count)}
    return sorted(step for step in planned if 0 < step < steps)
