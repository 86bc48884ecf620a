"""Run tasks in parallel, within bounds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, wait
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def run_all(pool: Executor, tasks: Iterable[Callable[[], T]]) -> list[T]:
    """Run all tasks, and return their results in order.

    After the first failure no further task starts.

    Raises:
        Exception: what the first failed task in order raised.
    """
    futures = [pool.submit(task) for task in tasks]
    try:
        return [future.result() for future in futures]
    except BaseException:
        for future in futures:
            future.cancel()
        # Tasks that already run cannot be cancelled, and write to what the caller then cleans up.
        wait(futures)
        raise


def prefetch(pool: Executor, tasks: Iterable[Callable[[], T]], ahead: int) -> Iterator[T]:
    """The results in order, with at most `ahead` tasks running or waiting to be consumed.

    When the consumer stops early, tasks that have not started are cancelled.

    Raises:
        Exception: what a task raised, when its result is due.
    """
    remaining = iter(tasks)
    pending: deque[Future[T]] = deque(pool.submit(task) for task in islice(remaining, ahead))
    try:
        while pending:
            result = pending.popleft().result()
            # Before the yield, so that the next task runs while the consumer works on this result.
            pending.extend(pool.submit(task) for task in islice(remaining, 1))
            yield result
    finally:
        for future in pending:
            future.cancel()
