"""Work of all ranks in the background, in phases that they enter at the same step.

The ranks do not wait for each other to learn whether a phase has ended: each counts those that it
has finished, and the counts are summed together with the losses (see `training.reporter`).
"""

import time
from collections.abc import Callable
from concurrent.futures import wait
from typing import Any, Literal

from dreambooth_trainer.checkpoint.task import BackgroundTask
from dreambooth_trainer.process import heartbeat
from dreambooth_trainer.process.distributed import Ranks

MAX_SILENT_SECONDS = 300.0
"""A phase without an answer of storage for this long is silent: storage is down."""
MAX_RETRY_SECONDS = 60.0
"""Longest pause before a phase is retried."""
_POLL_SECONDS = 1.0
"""How often the ranks compare, while they wait, how far they are."""


class Phases:
    """The phases as one rank sees them, one at a time.

    All ranks call `start`, `retry`, `poll` and `results` in the same order.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._task = BackgroundTask(lambda: None)
        self._started = self._failures = 0
        self._last_answer = 0.0

    @property
    def finished(self) -> int:
        """Number of phases that this rank has finished."""
        # A future that is done is counted before its phase has ended on the other ranks: the sum
        # tells when it has on all of them.
        running = self._started > 0 and not self._task.future.done()
        return self._started - running

    def is_finished_on_all(self, finished: int) -> bool:
        """Whether all ranks have finished the phase, by the sum of their `finished`."""
        return finished == self._started * self._ranks.topology.world_size

    def start(self, work: Callable[[], Any]) -> None:
        """Start a phase, which is `work` on this rank."""
        self._started += 1
        self._failures = 0
        self.record_answer()
        self._task = BackgroundTask(work)

    def retry(self) -> None:
        """Start the same phase again after a pause, on the ranks on which it failed."""
        # A phase of its own: the number of started phases tells whether all have finished.
        self._started += 1
        self._failures += 1
        self._task = self._task.retry(_retry_seconds(self._failures))

    def record_answer(self) -> None:
        """Storage has answered."""
        self._last_answer = time.monotonic()

    def poll(self) -> Literal["running", "silent", "finished"]:
        """Wait a moment for the phase, and compare the ranks. Collective.

        Returns:
            "finished" on all ranks, or "silent": on some rank, storage has not answered for
            `MAX_SILENT_SECONDS`.
        """
        wait([self._task.future], _POLL_SECONDS)
        heartbeat.send()  # no rank hangs here: the wait is bounded
        is_done = self._task.future.done()
        is_silent = time.monotonic() - self._last_answer > MAX_SILENT_SECONDS
        ranks = self._ranks.gather((is_done, is_silent and not is_done))
        if all(done for done, _ in ranks):
            return "finished"
        return "silent" if any(silent for _, silent in ranks) else "running"

    def results(self) -> list[Any]:
        """Wait for the phase; what `work` returned, in rank order. Collective.

        Raises:
            Exception: What `work` raised on the first rank on which it failed.
        """
        return self._ranks.run_on_all(self._task.future.result)


def _retry_seconds(failures: int) -> float:
    """Seconds before a phase is retried, doubling from 1 to `MAX_RETRY_SECONDS`."""
    # The exponent is bounded, as 2.0 ** 1024 raises OverflowError.
    return min(2.0 ** min(failures - 1, 10), MAX_RETRY_SECONDS)
