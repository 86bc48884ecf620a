"""Training waits for a save before the next one is due, but never for storage that is down."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dreambooth_storage import Storage, StorageError, StorageSettings, Written
from dreambooth_trainer.checkpoint import BackgroundSaver, CheckpointStore, phases
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.training.callbacks import SaveCheckpoints
from dreambooth_trainer.training.reporter import MeanLoss
from tests.trainer.checkpoint_saves import InlineUploads, RecordingListener, rank_of
from tests.trainer.thread_ranks import on_ranks

EVERY = 7
TIMEOUT_SECONDS = 60.0


@pytest.fixture
def storage() -> Storage:
    return Storage(StorageSettings(None, None, "auto"))


@pytest.fixture
def open_store(storage: Storage, tmp_path: Path) -> Callable[[Ranks], CheckpointStore]:
    def open_store(ranks: Ranks) -> CheckpointStore:
        store = CheckpointStore(storage, f"file://{tmp_path}/run", ranks)
        store.claim()
        return store

    return open_store


def state(step: int) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((300, 101), float(step))}


class SlowUploads(InlineUploads):
    """Uploads that take `seconds`, fail with `error`, or hang while `answers` is not set."""

    def __init__(self, storage: Storage, seconds: float = 0.0) -> None:
        super().__init__(storage)
        self.seconds = seconds
        self.error: Exception | None = None
        self.answers = threading.Event()
        self.answers.set()

    def upload(
        self, files: Sequence[tuple[int, str]], on_progress: Callable[[], None]
    ) -> list[Written]:
        time.sleep(self.seconds)
        self.answers.wait(TIMEOUT_SECONDS)
        if self.error is not None:
            raise self.error
        return super().upload(files, on_progress)


class LateReporter:
    """What `SaveCheckpoints` reads from a `StepReporter`, whose reports are two steps late."""

    stop_agreed = False

    def __init__(self, ranks: Ranks, saver: BackgroundSaver) -> None:
        self._ranks, self._saver = ranks, saver
        self._pending: list[tuple[int, int]] = []
        self.step = self.finished_phases = 0

    def add(self, step: int) -> None:
        self._pending.append((step, sum(self._ranks.gather(self._saver.finished_phases))))
        self._deliver(keep=2)

    def flush(self) -> None:
        self._deliver(keep=0)

    def _deliver(self, keep: int) -> None:
        while len(self._pending) > keep:
            self.step, self.finished_phases = self._pending.pop(0)


class Trained:
    """A rank's training: a save is due every 7 steps, and a step takes 10 ms."""

    def __init__(self, store: CheckpointStore, uploads: SlowUploads) -> None:
        self.listener = RecordingListener()
        self.saver = BackgroundSaver(store, uploads, keep=99, listener=self.listener)
        self.reporter = LateReporter(store.ranks, self.saver)
        self.lost: list[int] = []
        """Steps that a kill at the end of each step costs."""
        self._callback = SaveCheckpoints(
            self.saver, self.reporter, MeanLoss(), every=EVERY, total_steps=1000
        )

    def steps(self, numbers: Iterable[int]) -> None:
        for step in numbers:
            time.sleep(0.01)
            self.lost.append(step - max(self.listener.steps, default=0))
            self.reporter.add(step)
            self._callback.after_step(SimpleNamespace(state=lambda step=step: state(step)), step)


@pytest.mark.parametrize("slow", [0, 1])
def test_a_kill_costs_fewer_steps_than_two_intervals_though_storage_is_slow(
    storage: Storage, open_store: Callable[[Ranks], CheckpointStore], slow: int
) -> None:
    def train(ranks: Ranks) -> Trained:
        seconds = 0.4 if ranks.topology.rank == slow else 0.0
        trained = Trained(open_store(ranks), SlowUploads(storage, seconds))
        with trained.saver:
            trained.steps(range(1, 36))
        return trained

    for trained in on_ranks(2, train):
        assert trained.listener.steps == [7, 14, 21, 28]
        assert max(trained.lost) == 2 * EVERY - 1
        assert sum(trained.listener.waits) > 4 * (0.4 - 0.2)


def test_training_goes_on_while_storage_is_down_and_waits_again_once_it_is_back(
    storage: Storage,
    open_store: Callable[[Ranks], CheckpointStore],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(phases, "MAX_RETRY_SECONDS", 0.0)
    uploads = SlowUploads(storage, 0.2)
    uploads.error = StorageError("s3://b", "refused", "", "spec.output")
    trained = Trained(open_store(rank_of(attempt=0)), uploads)
    with trained.saver:
        trained.steps(range(1, 15))
        assert len(trained.listener.errors) == 1  # it was waited for until it had failed once
        trained.steps(range(15, 51))
        assert trained.listener.steps == []
        uploads.error = None
        trained.steps(range(51, 151))
        assert max(trained.lost[-50:]) < 2 * EVERY
    assert trained.listener.waits


def test_training_goes_on_while_storage_hangs(
    storage: Storage,
    open_store: Callable[[Ranks], CheckpointStore],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(phases, "MAX_SILENT_SECONDS", 0.5)
    monkeypatch.setattr(phases, "_POLL_SECONDS", 0.1)

    def train(ranks: Ranks) -> Trained:
        uploads = SlowUploads(storage)
        trained = Trained(open_store(ranks), uploads)
        if ranks.topology.rank == 1:
            uploads.answers.clear()
        with trained.saver:
            began = time.monotonic()
            trained.steps(range(1, 50))
            assert 0.5 < time.monotonic() - began < 20  # one wait
            assert trained.listener.steps == []
            uploads.answers.set()
            trained.steps(range(50, 150))
        return trained

    for trained in on_ranks(2, train):
        assert trained.listener.steps
        assert max(trained.lost[-50:]) < 2 * EVERY
