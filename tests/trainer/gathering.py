"""Ranks as threads of one process, for what is collective but needs no training."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Gathering:
    """What torch.distributed's all_gather_object does, between threads."""

    def __init__(self, ranks: int) -> None:
        self._values: list[Any] = [None] * ranks
        self._barrier = threading.Barrier(ranks)

    def of(self, rank: int) -> Callable[[Any], list[Any]]:
        def gather(value: Any) -> list[Any]:
            self._values[rank] = value
            self._barrier.wait(30)
            values = list(self._values)
            self._barrier.wait(30)
            return values

        return gather


def on_ranks(ranks: int, body: Callable[[int, Callable[[Any], list[Any]]], Any]) -> list[Any]:
    """Run `body(rank, gather)` on every rank at once; its results or exceptions by rank."""
    gathering = Gathering(ranks)
    with ThreadPoolExecutor(ranks) as pool:
        futures = [pool.submit(body, rank, gathering.of(rank)) for rank in range(ranks)]
    return [future.exception() or future.result() for future in futures]
