"""Ranks that succeed together or fail together, so that none is left waiting in a collective."""

import pickle
from collections.abc import Callable
from typing import Any, TypeVar

from dreambooth_trainer.process.errors import TrainerError

T = TypeVar("T")
Gather = Callable[[Any], list[Any]]


class CheckpointError(TrainerError):
    """A checkpoint could not be saved or loaded."""


class Agreement:
    """`gather(obj)` returns every rank's object in rank order, on every rank."""

    def __init__(self, rank: int, gather: Gather) -> None:
        self._rank = rank
        self._gather = gather

    def on_first(self, action: Callable[[], T]) -> T:
        """Rank 0's result of `action`, on every rank."""
        results: list[T] = self.together(lambda: action() if self._rank == 0 else None)
        return results[0]

    def together(self, action: Callable[[], Any]) -> list[Any]:
        """Every rank's result of `action`. If it fails on any rank, all raise the first failing
        rank's error, so that all exit with the same code.
        """
        result, error = None, None
        try:
            result = action()
        except Exception as caught:
            error = caught
        outcomes = self._gather((result, _portable(error)))
        first = next((e for _, e in outcomes if e is not None), None)
        if first is not None:
            raise first from error
        return [value for value, _ in outcomes]


def _portable(error: Exception | None) -> Exception | None:
    """The error as it can be sent to the other ranks."""
    if error is None:
        return None
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:
        copy = None
    same = type(copy) is type(error)
    return error if same else CheckpointError(f"{type(error).__name__}: {error}")
