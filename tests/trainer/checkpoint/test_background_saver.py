"""Saves in the background, on a real S3 server behind a gate that hangs or breaks connections."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from dreambooth_storage import (
    AccessDeniedError,
    Storage,
    StorageError,
    StorageSettings,
    TransferPolicy,
)
from dreambooth_storage.upload.process import UploadProcess
from dreambooth_trainer.checkpoint import (
    BackgroundSaver,
    CheckpointRef,
    CheckpointStore,
    background,
    phases,
)
from dreambooth_trainer.process import heartbeat
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.errors import FencedError
from tests.trainer.checkpoint_saves import RecordingListener, load, rank_of
from tests.trainer.gate import Gate
from tests.trainer.thread_ranks import on_ranks

TIMEOUT_SECONDS = 60.0
STEP = 1000
"""A step after all saves."""
ONE_TRY = TransferPolicy(attempts=1)
State = dict[str, torch.Tensor]


@pytest.fixture
def gate(s3_endpoint: str) -> Iterator[Gate]:
    with Gate(s3_endpoint) as gate:
        yield gate


@pytest.fixture
def storage(s3_endpoint: str) -> Storage:
    return Storage(StorageSettings(s3_endpoint, None, "path"))


@pytest.fixture
def open_store(storage: Storage, bucket: str) -> Callable[..., CheckpointStore]:
    def open_store(ranks: Ranks | None = None) -> CheckpointStore:
        store = CheckpointStore(storage, f"s3://{bucket}/run", ranks)
        store.claim()
        return store

    return open_store


@pytest.fixture
def seen(storage: Storage, bucket: str) -> CheckpointStore:
    """The store as whoever only looks sees it."""
    return CheckpointStore(storage, f"s3://{bucket}/run")


class Run:
    """A saver whose uploads go through the gate, and what its listener was called with."""

    def __init__(self, store: CheckpointStore, gate: Gate) -> None:
        self.listener = RecordingListener()
        self.steps, self.errors = self.listener.steps, self.listener.errors
        self.uploads = UploadProcess(StorageSettings(gate.url, None, "path"), policy=ONE_TRY)
        self.saver = BackgroundSaver(store, self.uploads, keep=9, listener=self.listener)

    def train_until(self, done: Callable[[], bool]) -> None:
        """Take steps, as a single rank."""
        until(lambda: self.advance() or done())

    def advance(self) -> None:
        """Take one step."""
        self.saver.advance(finished=self.saver.finished_phases, step=STEP)


@pytest.fixture
def run(open_store: Callable[..., CheckpointStore], gate: Gate) -> Iterator[Run]:
    run = Run(open_store(), gate)
    with run.saver:
        yield run


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not done():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def state(step: int) -> State:
    return {
        "weight": torch.full((300, 1001), float(step)),
        "half": torch.full((77,), step, dtype=torch.bfloat16),
        "average": torch.arange(6.0).reshape(2, 3).t() + step,  # not contiguous
        "empty": torch.zeros(0, 3),
    }


def assert_holds(store: CheckpointStore, step: int) -> None:
    reference = next(each for each in store.checkpoints() if each.step == step)
    found, expected = load(store, reference), state(step)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def steps(store: CheckpointStore) -> list[int]:
    return [reference.step for reference in store.checkpoints()]


def test_steps_go_on_while_storage_hangs(run: Run, gate: Gate, seen: CheckpointStore) -> None:
    gate.shut()
    run.saver.begin(10, state(10))
    assert gate.arrived.wait(TIMEOUT_SECONDS)
    for _ in range(100):
        run.advance()
    assert steps(seen) == []
    gate.open()
    run.train_until(lambda: run.steps == [10])
    assert steps(seen) == [10]


def test_what_is_saved_is_the_state_at_the_save(
    run: Run, gate: Gate, seen: CheckpointStore
) -> None:
    gate.shut()
    tensors = state(10)
    run.saver.begin(10, tensors, loss=0.5)
    for tensor in tensors.values():  # the next steps
        tensor.add_(1)
    gate.open()
    run.train_until(lambda: run.steps == [10])
    assert_holds(seen, 10)
    [reference] = seen.checkpoints()
    assert reference.manifest.loss == 0.5


def test_a_state_does_not_count_before_a_later_loss_is_known(
    run: Run, seen: CheckpointStore
) -> None:
    run.saver.begin(10, state(10))
    until(lambda: run.saver.finished_phases == 1)
    run.saver.advance(finished=1, step=10)
    time.sleep(1)
    assert run.saver.finished_phases == 1
    assert steps(seen) == []
    run.saver.advance(finished=1, step=11)
    run.train_until(lambda: run.steps == [10])
    assert steps(seen) == [10]


def test_a_newer_save_replaces_one_that_waits(
    run: Run, gate: Gate, storage: Storage, bucket: str, seen: CheckpointStore
) -> None:
    gate.shut()
    for step in (10, 20, 30):
        run.saver.begin(step, state(step))
    gate.open()
    run.train_until(lambda: run.steps == [10, 30])
    assert steps(seen) == [30, 10]
    assert_holds(seen, 30)
    assert_holds(seen, 10)
    assert not [o for o in storage.list(f"s3://{bucket}/run") if "00000020" in o.relative]


def test_a_failed_save_is_counted_and_tried_again(
    run: Run, gate: Gate, seen: CheckpointStore
) -> None:
    gate.refuse()
    run.saver.begin(10, state(10))
    run.train_until(lambda: len(run.errors) == 2)
    assert all(isinstance(error, StorageError) for error in run.errors)
    gate.open()
    run.train_until(lambda: run.steps == [10])
    assert_holds(seen, 10)


def test_a_failed_save_is_replaced_by_a_newer_one(
    run: Run, gate: Gate, seen: CheckpointStore
) -> None:
    gate.refuse()
    run.saver.begin(10, state(10))
    run.saver.begin(20, state(20))
    run.train_until(lambda: len(run.errors) == 1)
    gate.open()
    run.train_until(lambda: run.steps == [20])
    assert steps(seen) == [20]


def test_the_last_save_waits_for_the_one_under_way(
    run: Run, gate: Gate, seen: CheckpointStore
) -> None:
    gate.shut()
    run.saver.begin(10, state(10))
    run.saver.begin(20, state(20))
    finished = threading.Event()

    def finish() -> None:
        run.saver.finish(21, state(21))
        finished.set()

    thread = threading.Thread(target=finish)
    thread.start()
    assert not finished.wait(1)
    gate.open()
    thread.join(TIMEOUT_SECONDS)
    assert run.steps == [10, 21]
    assert_holds(seen, 10)
    assert_holds(seen, 21)


def test_training_fails_only_when_the_last_save_does(
    run: Run, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phases, "MAX_RETRY_SECONDS", 0.0)
    gate.refuse()
    run.saver.begin(10, state(10))
    run.train_until(lambda: len(run.errors) == 5)
    with pytest.raises(StorageError):
        run.saver.finish(20, state(20))
    assert background.LAST_SAVE_ATTEMPTS <= len(run.errors) - 5 <= background.LAST_SAVE_ATTEMPTS + 1


def test_refused_credentials_end_the_training_at_the_next_step(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")  # the uploads' process starts with it
    run.saver.begin(10, state(10))
    with pytest.raises(AccessDeniedError):
        run.train_until(lambda: bool(run.steps))


def test_a_process_that_dies_while_it_uploads_is_replaced(
    run: Run, gate: Gate, seen: CheckpointStore
) -> None:
    gate.shut()
    run.saver.begin(10, state(10))
    assert gate.arrived.wait(TIMEOUT_SECONDS)
    first = run.uploads.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    gate.open()
    run.train_until(lambda: run.steps == [10])
    assert run.uploads.pid != first
    assert "code -9" in str(run.errors[0])
    assert_holds(seen, 10)


def test_an_upload_is_a_sign_of_life_only_to_a_rank_that_waits_for_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats: list[int] = []
    monkeypatch.setattr(heartbeat, "send", lambda: beats.append(run.saver.finished_phases))
    run.saver.begin(10, state(10))
    until(lambda: run.saver.finished_phases == 1)
    assert beats == []
    run.saver.finish(20, state(20))
    assert beats


@pytest.mark.parametrize("slow", [0, 1])
def test_no_rank_waits_for_a_slower_one_and_all_commit_at_once(
    s3_endpoint: str, open_store: Callable[..., CheckpointStore], seen: CheckpointStore, slow: int
) -> None:
    votes, both = [0, 0], threading.Barrier(2)
    with Gate(s3_endpoint) as slow_gate, Gate(s3_endpoint) as fast_gate:
        slow_gate.shut()

        def train(ranks: Ranks) -> tuple[int, int]:
            """The step at which the slow rank may go on, and the one that finds all durable."""
            rank = ranks.topology.rank
            run = Run(open_store(ranks), slow_gate if rank == slow else fast_gate)
            step, opened = 10, 0
            with run.saver:
                run.saver.begin(10, state(10))
                while not run.steps:
                    step += 1
                    votes[rank] = run.saver.finished_phases
                    both.wait(TIMEOUT_SECONDS)  # the step's own exchange
                    total = sum(votes)
                    both.wait(TIMEOUT_SECONDS)
                    run.saver.advance(finished=total, step=step)
                    if total == 1 and not opened:
                        opened = step + 30
                    if step == opened:
                        slow_gate.open()
                    time.sleep(0.02)
            return opened, step

        first, second = on_ranks(2, train)
    assert first == second
    opened, durable = first
    assert durable > opened
    assert_holds(seen, 10)
    sizes = [shard.size for shard in seen.checkpoints()[0].manifest.shards]
    assert len(sizes) == 2
    assert max(sizes) / min(sizes) < 1.1


def test_an_attempt_that_lost_the_prefix_ends_on_all_ranks_with_one_message(
    gate: Gate, open_store: Callable[..., CheckpointStore]
) -> None:
    def train(ranks: Ranks) -> CheckpointRef:
        with Run(open_store(ranks), gate).saver as saver:
            if ranks.topology.rank == 0:
                open_store(rank_of(attempt=1))
            return saver.finish(10, state(10))

    first, second = on_ranks(2, train)
    assert isinstance(first, FencedError)
    assert str(first) == str(second)


def test_retries_slow_down_to_a_bound_however_many_have_failed() -> None:
    assert [phases._retry_seconds(n) for n in (1, 2, 3, 7, 5000)] == [1, 2, 4, 60, 60]
