"""Saving while training goes on.

At a save, each rank copies its part of the state (see `staging`), and the steps go on. A process of
its own uploads the copy. When all ranks' shards are stored, rank 0 commits. All ranks take these
turns at the same step: what each has ended is a number that travels with the losses (see
`reporting`), so that no step waits for a slower rank. The commit therefore comes a few steps after
the last byte.

One save is under way. At most one waits behind it, and a newer one takes its place. A save that
fails is tried again for as long as no newer one waits.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from pydantic import JsonValue
from torch import Tensor

from dreambooth_storage.upload.process import UploadProcess
from dreambooth_trainer.checkpoint.manifest import CheckpointRef, Draft, Shard
from dreambooth_trainer.checkpoint.shards import describe
from dreambooth_trainer.checkpoint.staging import Staging
from dreambooth_trainer.checkpoint.store import CheckpointStore
from dreambooth_trainer.process import heartbeat
from dreambooth_trainer.process.errors import BadConfigError, FencedError, StorageDeniedError
from dreambooth_trainer.process.exit_status import exit_code_of

log = logging.getLogger(__name__)

LAST_ATTEMPTS = 3
"""How often the last save is tried: nothing comes after it. Each attempt has storage's retries."""
LONGEST_PAUSE_SECONDS = 60.0

_HOPELESS = {kind.exit_code for kind in (BadConfigError, StorageDeniedError, FencedError)}


class SaveListener(Protocol):
    """Learns what becomes of the saves of an attempt."""

    def checkpoint_committed(self) -> None:
        """A checkpoint exists: make durable what belongs to it.

        Called on rank 0 alone, in a background thread. An error fails the save, which is then tried
        again, this call included.
        """

    def checkpoint_saved(self, reference: CheckpointRef, seconds: float) -> None:
        """A save is complete on all ranks, `seconds` after its state was copied.

        Called on every rank, between two steps.
        """

    def save_failed(self, error: Exception) -> None:
        """A save failed on some rank. Called on every rank, between two steps."""


@dataclass(frozen=True)
class _Save:
    """A state that was copied at the time `began`, and what it is."""

    draft: Draft
    staging: Staging
    began: float


class Saves:
    """The saves of one attempt, as one rank sees them; a context manager.

    All ranks call `begin`, `advance` and `finish` at the same steps, with the same state; its
    tensors keep their shapes from the first one on.
    """

    def __init__(
        self,
        store: CheckpointStore,
        uploads: UploadProcess,
        *,
        keep: int,
        listener: SaveListener,
    ) -> None:
        self._store = store
        self._uploads = uploads
        self._keep = keep
        self._listener = listener
        self._buffers: list[Staging] = []
        self._current: _Save | None = None
        self._queued: _Save | None = None
        self._newest: CheckpointRef | None = None
        self._task = self._preparation = _Task(lambda: None)
        self._then: Callable[[list[Any]], None] = lambda results: None
        self._started = self._failures = 0
        self._attempts = math.inf
        self._problem: Exception | None = None
        self._awaited = False

    @property
    def ended(self) -> int:
        """How many turns this rank has ended; the sum over all ranks is what `advance` wants."""
        return self._started - (not self._task.future.done() if self._started else 0)

    def prepare(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the memory for copies of such a state, and start the process, while steps go on."""
        self._buffers = [Staging(self._store.layouts(tensors)) for _ in range(2)]
        self._uploads.hold([s.descriptor for b in self._buffers for s in b.shards])
        self._preparation = _Task(self._take)

    def begin(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        info: Mapping[str, JsonValue],
        *,
        loss: float | None = None,
    ) -> None:
        """Copy the state after `step` optimizer steps, and save the copy in the background."""
        began = time.perf_counter()
        draft = self._store.draft(step, tensors, info, loss)
        if not self._buffers:
            self.prepare(tensors)
        self._preparation.future.result()
        staging = self._free_buffer()
        staging.fill(tensors)
        save = _Save(draft, staging, began)
        if self._current is None:
            self._start(save)
            return
        if self._queued is not None:
            replaced = self._queued.draft.step
            log.info("the save of step %d takes the place of that of step %d", step, replaced)
        self._queued = save

    def advance(self, *, ended: int, step: int) -> None:
        """Take the next turn, if all ranks had ended the last one when `ended` was added up.

        `step` is the newest step whose loss is known to be finite: a state does not count before
        the loss of a step that began with it is. Raises what no later save could mend, the same on
        every rank.
        """
        save, due = self._current, self._started * self._store.world_size
        if save is not None and step > save.draft.step and ended == due:
            self._take_turn()

    def finish(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        info: Mapping[str, JsonValue],
        *,
        loss: float | None = None,
    ) -> CheckpointRef:
        """Save the last state, and wait for it; the save under way is ended first.

        Raises the reason when the last save fails.
        """
        self._queued, self._attempts = None, 1
        self._settle()
        self._attempts = LAST_ATTEMPTS
        self.begin(step, tensors, info, loss=loss)
        self._settle()
        if self._newest is None or self._newest.step != step:
            assert self._problem is not None
            raise self._problem
        return self._newest

    def close(self) -> None:
        """Drop what is under way."""
        wait([self._preparation.future])
        self._uploads.close()
        for buffer in self._buffers:
            buffer.close()
        self._buffers = []

    def __enter__(self) -> "Saves":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _take(self) -> None:
        self._buffers[0].take()  # the second one's only when it is needed
        self._uploads.start()

    def _free_buffer(self) -> Staging:
        """One that is not being uploaded."""
        used = self._current.staging if self._current else None
        return next(buffer for buffer in self._buffers if buffer is not used)

    def _start(self, save: _Save) -> None:
        self._current, self._failures = save, 0
        self._run(lambda: self._upload(save), self._commit)

    def _run(self, work: Callable[[], Any], then: Callable[[list[Any]], None]) -> None:
        """Begin a turn on every rank; `then` is given all ranks' results in order."""
        self._started += 1
        self._task, self._then = _Task(work), then

    def _take_turn(self) -> None:
        try:
            results = self._store.agreement.together(self._task.future.result)
        except Exception as error:
            self._recover(error)
        else:
            self._then(results)

    def _upload(self, save: _Save) -> list[Shard]:
        save.staging.wait()
        shards = save.staging.shards
        step = save.draft.step
        files = [(s.descriptor, self._store.uri_of(step, s.layout)) for s in shards]
        written = self._uploads.upload(files, self._beat)
        return [describe(s.layout, w) for s, w in zip(shards, written, strict=True)]

    def _commit(self, parts: list[list[Shard]]) -> None:
        assert self._current is not None
        draft, shards = self._current.draft, [shard for part in parts for shard in part]
        reference: CheckpointRef | None = None

        def commit() -> CheckpointRef:
            nonlocal reference  # tried again, it does not commit again
            reference = reference or self._store.commit(draft, shards)
            self._listener.checkpoint_committed()
            self._store.sweep(self._keep)
            return reference

        self._run(commit if self._store.rank == 0 else lambda: None, self._end)

    def _end(self, results: list[CheckpointRef]) -> None:
        assert self._current is not None
        self._newest = results[0]
        self._listener.checkpoint_saved(self._newest, time.perf_counter() - self._current.began)
        self._go_on()

    def _go_on(self) -> None:
        save, self._current, self._queued = self._queued, None, None
        if save is not None:
            self._start(save)

    def _recover(self, error: Exception) -> None:
        """A turn has failed on some rank: try again, unless there is something newer to save."""
        assert self._current is not None
        if exit_code_of(error) in _HOPELESS:
            raise error
        log.warning("the save of step %d failed: %s", self._current.draft.step, error)
        self._listener.save_failed(error)
        self._problem = error
        self._failures += 1
        self._attempts -= 1
        if self._queued is not None or self._attempts <= 0:
            self._go_on()
        else:
            self._started += 1
            self._task = self._task.again(_pause(self._failures))

    def _settle(self) -> None:
        """Wait until nothing is under way."""
        self._awaited = True
        while self._current is not None:
            wait([self._task.future])
            self._take_turn()
        self._awaited = False

    def _beat(self) -> None:
        """An upload is progress only where the rank waits for it: steps have beats of their own."""
        if self._awaited:
            heartbeat.send()


class _Task:
    """Work that is done in a thread, which the process does not wait for at its end."""

    def __init__(self, work: Callable[[], Any], pause: float = 0.0) -> None:
        self._work = work
        self._pause = pause
        self.future: Future[Any] = Future()
        threading.Thread(target=self._do, name="saves", daemon=True).start()

    def _do(self) -> None:
        time.sleep(self._pause)
        try:
            result = self._work()
        except Exception as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)

    def again(self, pause: float) -> "_Task":
        """Its work once more after `pause` seconds if it has failed, else itself."""
        return self if self.future.exception() is None else _Task(self._work, pause)


def _pause(failures: int) -> float:
    """Seconds before a save is tried again."""
    return min(2.0 ** (failures - 1), LONGEST_PAUSE_SECONDS)
