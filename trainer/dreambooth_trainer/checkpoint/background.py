"""Saves states in the background, while training goes on.

At a save, each rank copies its part of the state (see `staging`), and training continues. The rest
happens in two phases, each in a background thread of every rank: all ranks upload their shards,
each through its own upload process; then rank 0 commits, and deletes old checkpoints.

The ranks enter a phase at the same step, without waiting for each other (see `phases`). A commit
therefore follows the last byte by a few steps.

One save is in progress at a time. Training waits for it before the next one is due, so that a kill
costs fewer steps than two intervals, however slow storage is. While storage fails, training goes on
without waiting: at most one save is queued behind the one that is retried, and a newer one replaces
it.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

from torch import Tensor

from dreambooth_api.contract.exit_codes import ExitCode
from dreambooth_storage.upload.process import UploadProcess
from dreambooth_trainer.checkpoint.buffers import StagingBuffers
from dreambooth_trainer.checkpoint.listener import SaveListener
from dreambooth_trainer.checkpoint.manifest import CheckpointRef, PendingManifest, Shard
from dreambooth_trainer.checkpoint.phases import Phases
from dreambooth_trainer.checkpoint.retention import ChooseStep, choose_none
from dreambooth_trainer.checkpoint.staging import Staging
from dreambooth_trainer.checkpoint.store import CheckpointStore
from dreambooth_trainer.process import heartbeat
from dreambooth_trainer.process.exit_status import exit_code_of

log = logging.getLogger(__name__)

LAST_SAVE_ATTEMPTS = 3
"""Attempts of the last save, which no later one can replace. Each has storage's own retries."""

_FATAL = (ExitCode.BAD_CONFIG, ExitCode.STORAGE_DENIED, ExitCode.FENCED)
"""Exit codes of errors that every later save would meet too."""


@dataclass(frozen=True)
class _Save:
    """A copied state on its way to storage."""

    pending: PendingManifest
    staging: Staging
    started: float
    """When its copy began, by `time.perf_counter`."""


class BackgroundSaver:
    """The saves of one attempt, as one rank sees them; a context manager.

    All ranks call `begin`, `advance` and `finish` at the same steps, with the same state, whose
    tensors keep their names, shapes and dtypes from the first save on.

    Args:
        store: The store of the checkpoints; it has claimed its prefix.
        uploads: The upload process; it is closed with the saver.
        keep: Number of the newest checkpoints to keep (see `retention`).
        choose: Which checkpoint has the best scores, and is kept too; called in the background.
        listener: Is called at commits, completions and failures.
    """

    def __init__(
        self,
        store: CheckpointStore,
        uploads: UploadProcess,
        *,
        keep: int,
        listener: SaveListener,
        choose: ChooseStep = choose_none,
    ) -> None:
        self._store = store
        self._buffers = StagingBuffers(store, uploads)
        self._keep = keep
        self._choose = choose
        self._listener = listener
        self._current: _Save | None = None
        self._queued: _Save | None = None
        self._newest: CheckpointRef | None = None
        self._phases = Phases(store.ranks)
        self._after_phase: Callable[[list[Any]], None] = lambda _results: None
        self._attempts_left = math.inf
        self._problem: Exception | None = None
        self._blocking = False
        self._storage_answers = True

    @property
    def should_wait(self) -> bool:
        """Whether a save is in progress that training has to wait for; the same on every rank.

        False after a save that failed or made no progress, until one has succeeded.
        """
        return self._current is not None and self._storage_answers

    @property
    def finished_phases(self) -> int:
        """Number of phases that this rank has finished; `advance` takes the sum over all ranks."""
        return self._phases.finished

    def prepare(self, tensors: Mapping[str, Tensor]) -> None:
        """Allocate memory for such a state in the background; see `StagingBuffers.prepare`."""
        self._buffers.prepare(tensors)

    def begin(self, step: int, tensors: Mapping[str, Tensor], *, loss: float | None = None) -> None:
        """Copy the state after `step` optimizer steps, and save the copy in the background.

        Args:
            step: Optimizer steps over all attempts.
            tensors: The state by name, the same on every rank.
            loss: Mean loss of the steps since the previous save, to choose the best checkpoint by.
        """
        started = time.perf_counter()
        pending = PendingManifest.of(step, tensors, loss)
        used = self._current.staging if self._current else None
        staging = self._buffers.fill(tensors, used=used)
        save = _Save(pending, staging, started)
        if self._current is None:
            self._start(save)
            return
        if self._queued is not None:
            replaced = self._queued.pending.step
            log.info("the save of step %d replaces that of step %d", step, replaced)
        self._queued = save

    def advance(self, *, finished: int, step: int) -> None:
        """Enter the next phase if all ranks have finished the last one. Collective when they have.

        Args:
            finished: Sum of `finished_phases` over the ranks, the same on each of them.
            step: Newest step whose loss is known to be finite.

        Raises:
            Exception: An error that every later save would meet (credentials, a newer attempt), the
                same on every rank.
        """
        save = self._current
        # A state is committed only once the loss of a later step is known to be finite, as that
        # step started from the state's weights. All ranks see the same numbers here, and so all
        # enter `_end_phase`, which is collective, or none does.
        if (
            save is not None
            and step > save.pending.step
            and self._phases.is_finished_on_all(finished)
        ):
            self._end_phase()

    def wait_until_durable(self) -> None:
        """Wait for the save in progress while `should_wait`. Collective.

        The loss of a step after the saved one has to be known to be finite. The wait ends early
        when the save fails on some rank, or storage does not answer there.

        Raises:
            Exception: As `advance`.
        """
        began = time.perf_counter()
        while self.should_wait:
            state = self._phases.poll()
            if state == "finished":
                self._end_phase()
            elif state == "silent":
                log.warning("storage does not answer; training goes on while it is tried again")
                self._storage_answers = False
        if self._storage_answers:
            self._listener.training_waited(time.perf_counter() - began)

    def finish(
        self, step: int, tensors: Mapping[str, Tensor], *, loss: float | None = None
    ) -> CheckpointRef:
        """Save the last state and wait for it; a save in progress is completed first. Collective.

        Raises:
            Exception: The error of the last of `LAST_SAVE_ATTEMPTS` attempts.
        """
        # The save in progress gets no retry, and a queued one is dropped: the last save is newer.
        self._queued, self._attempts_left = None, 1
        self._wait_for_saves()
        self._attempts_left = LAST_SAVE_ATTEMPTS
        self.begin(step, tensors, loss=loss)
        self._wait_for_saves()
        if self._newest is None or self._newest.step != step:
            assert self._problem is not None
            raise self._problem
        return self._newest

    def _wait_for_saves(self) -> None:
        self._blocking = True
        while self._current is not None:
            self._end_phase()
        self._blocking = False

    def close(self) -> None:
        """Drop the save in progress, and free the memory."""
        self._buffers.close()

    def __enter__(self) -> "BackgroundSaver":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self, save: _Save) -> None:
        self._current = save
        staging, step = save.staging, save.pending.step
        upload = partial(self._buffers.upload, staging, step, self._record_answer)
        self._enter_phase(upload, self._commit)

    def _enter_phase(self, work: Callable[[], Any], after: Callable[[list[Any]], None]) -> None:
        """Start a phase on this rank; `after` is called with all ranks' results in order."""
        self._phases.start(work)
        self._after_phase = after

    def _end_phase(self) -> None:
        """Wait for the phase, if need be, and go on to what follows it. Collective."""
        try:
            results = self._phases.results()
        except Exception as error:
            self._recover(error)
        else:
            self._after_phase(results)

    def _record_answer(self) -> None:
        """Storage has answered; a heartbeat only while `finish` waits for that.

        At other times steps are the progress: the watchdog would not notice a training loop that
        hangs during an upload.
        """
        self._phases.record_answer()
        if self._blocking:
            heartbeat.send()

    def _commit(self, parts: list[list[Shard]]) -> None:
        assert self._current is not None
        pending, shards = self._current.pending, [shard for part in parts for shard in part]
        reference: CheckpointRef | None = None

        def commit() -> CheckpointRef:
            nonlocal reference  # a retry after the commit must not commit again
            reference = reference or self._store.commit(pending, shards)
            self._listener.checkpoint_committed()
            # Last: nothing old is deleted before the new checkpoint is complete.
            self._store.prune(self._keep, self._choose)
            return reference

        # The other ranks enter the phase with nothing to do, so that all count the same phases.
        is_first = self._store.ranks.topology.rank == 0
        self._enter_phase(commit if is_first else lambda: None, self._complete)

    def _complete(self, results: list[CheckpointRef]) -> None:
        assert self._current is not None
        self._newest, self._storage_answers = results[0], True
        seconds = time.perf_counter() - self._current.started
        self._listener.checkpoint_saved(self._newest, seconds)
        self._start_queued()

    def _start_queued(self) -> None:
        save, self._current, self._queued = self._queued, None, None
        if save is not None:
            self._start(save)

    def _recover(self, error: Exception) -> None:
        """Retry a phase that failed on some rank, unless a newer state is queued."""
        assert self._current is not None
        if exit_code_of(error) in _FATAL:
            raise error
        log.warning("the save of step %d failed: %s", self._current.pending.step, error)
        self._listener.save_failed(error)
        self._problem, self._storage_answers = error, False
        self._attempts_left -= 1
        if self._queued is not None or self._attempts_left <= 0:
            self._start_queued()
        else:
            self._phases.retry()
