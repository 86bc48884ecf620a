"""Ranks as threads of one process, for what is collective but needs no training."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.topology import Topology

TIMEOUT_SECONDS = 120


class _Exchange:
    """What the threads share: a place for each rank's value, and a barrier."""

    def __init__(self, size: int) -> None:
        self.values: list[Any] = [None] * size
        self.barrier = threading.Barrier(size)


class ThreadRanks(Ranks):
    """One rank's view of the others, which are threads."""

    def __init__(self, topology: Topology, exchange: _Exchange) -> None:
        super().__init__(topology)
        self._exchange = exchange

    def gather(self, value: Any) -> list[Any]:
        self._exchange.values[self.topology.rank] = value
        self._exchange.barrier.wait(TIMEOUT_SECONDS)
        values = list(self._exchange.values)
        self._exchange.barrier.wait(TIMEOUT_SECONDS)
        return values


def on_ranks(
    size: int, body: Callable[[Ranks], Any], *, per_node: int = 1, attempt: int = 0
) -> list[Any]:
    """Run `body` on every rank at once; its results or exceptions by rank."""
    exchange = _Exchange(size)
    ranks = [
        ThreadRanks(Topology(rank, rank % per_node, size, per_node, attempt), exchange)
        for rank in range(size)
    ]
    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(body, each) for each in ranks]
    return [future.exception() or future.result() for future in futures]
