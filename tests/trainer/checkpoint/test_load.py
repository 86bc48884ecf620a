"""A node downloads a checkpoint once, and its ranks share it."""

import errno
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dreambooth_api.contract import environment
from dreambooth_storage import (
    NullObserver,
    Storage,
    StorageSettings,
    StorageUnavailableError,
    TransferPolicy,
    join,
)
from dreambooth_trainer.checkpoint import CheckpointRef, CheckpointStore
from dreambooth_trainer.process.distributed import Ranks
from tests.trainer.checkpoint_saves import rank_of, save
from tests.trainer.thread_ranks import on_ranks

State = dict[str, Tensor]
STATE: State = {f"weight/{n}": torch.full((30, 1000), float(n)) for n in range(50)}
PAYLOAD = sum(tensor.nbytes for tensor in STATE.values())
ONE_TRY = TransferPolicy(attempts=1)


class Bytes(NullObserver):
    """Counts the bytes of each kind of operation."""

    def __init__(self) -> None:
        self.moved: Counter[str] = Counter()

    def transferred(self, operation: str, size: int, seconds: float) -> None:
        self.moved[operation] += size


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv(environment.CACHE_DIR, str(folder))
    return folder


@pytest.fixture
def settings(s3_endpoint: str) -> StorageSettings:
    return StorageSettings(s3_endpoint, addressing_style="path")


@pytest.fixture
def newest(settings: StorageSettings, bucket: str) -> CheckpointRef:
    """The newest of two checkpoints on S3, in several shards."""
    with Storage(settings) as storage:
        uri = f"s3://{bucket}/run/checkpoints"
        store = CheckpointStore(storage, uri, rank_of(0), max_shard=PAYLOAD // 4)
        store.claim()
        save(storage, store, 10, {name: tensor - 1 for name, tensor in STATE.items()})
        return save(storage, store, 20, STATE)


@pytest.fixture
def restore(
    settings: StorageSettings, newest: CheckpointRef, bucket: str
) -> Callable[..., list[tuple[int, State, int]]]:
    """Restores on all ranks; the step, the state and the bytes that each has read from S3."""

    def on_rank(ranks: Ranks) -> tuple[int, State, int]:
        count = Bytes()
        with Storage(settings, count, ONE_TRY) as storage:
            store = CheckpointStore(storage, f"s3://{bucket}/run/checkpoints", ranks)
            restored = store.restore()
        assert restored is not None
        return restored[1].step, restored[0], count.moved["read"]

    def run(size: int, per_node: int) -> Any:
        results = on_ranks(size, on_rank, per_node=per_node, attempt=1)
        assert not [result for result in results if isinstance(result, Exception)], results
        return results

    return run


def assert_restored(results: list[tuple[int, State, int]]) -> None:
    for step, state, _ in results:
        assert step == 20
        assert state.keys() == STATE.keys()
        assert all(torch.equal(state[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize(("size", "per_node"), [(1, 1), (2, 2), (2, 1)])
def test_of_the_best_state_the_exported_weights_alone_are_read(
    settings: StorageSettings, bucket: str, cache: Path, size: int, per_node: int
) -> None:
    moments = {f"exp_avg{end}/{n}": torch.ones(30, 1000) for end in ("", "_sq") for n in range(50)}
    uri = f"s3://{bucket}/run/checkpoints"

    def on_rank(ranks: Ranks) -> tuple[State, int]:
        count = Bytes()
        with Storage(settings, count, ONE_TRY) as storage:
            store = CheckpointStore(storage, uri, ranks)
            before = count.moved["read"]
            loaded = store.load_best(lambda _: 20, "weight")
        assert loaded is not None
        return loaded[0], count.moved["read"] - before

    with Storage(settings) as storage:
        store = CheckpointStore(storage, uri, rank_of(0), max_shard=PAYLOAD // 4)
        store.claim()
        save(storage, store, 20, STATE | moments)
    results = on_ranks(size, on_rank, per_node=per_node, attempt=1)
    assert not [result for result in results if isinstance(result, Exception)], results
    for state, read in results:
        assert state.keys() == STATE.keys()
        assert all(torch.equal(state[name], STATE[name]) for name in STATE)
        # A shard that also holds moments is read as a whole.
        assert read < 1.4 * PAYLOAD


def mapped() -> list[str]:
    """Files of checkpoints that this process has in its memory."""
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if "shard-" in line]


@pytest.mark.parametrize(("per_node", "copies"), [(1, [1, 1, 1, 1]), (2, [1, 0, 1, 0])])
def test_each_node_reads_the_checkpoint_once(
    restore: Any, cache: Path, per_node: int, copies: list[int]
) -> None:
    results = restore(4, per_node)
    assert_restored(results)
    # Claims, commits and manifests are some kB; the shards have headers of their own.
    read = [size for _, _, size in results]
    assert [size // PAYLOAD for size in read] == copies, read
    assert not cache.exists() or not list(cache.glob("checkpoints/*"))


def test_ranks_share_the_pages_of_files_that_are_deleted(restore: Any, cache: Path) -> None:
    results = restore(2, 2)
    shards = {line.split()[-2] for line in mapped()}
    assert len(shards) == 4
    assert all(line.endswith("(deleted)") for line in mapped())
    first, second = (state["weight/0"] for _, state, _ in results)
    first.zero_()  # a page that is written to becomes the rank's own
    assert torch.equal(second, STATE["weight/0"])
    del results, first, second
    assert mapped() == []


def no_space(*_: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("how", ["full", "fills up", "not a folder", "cannot be mapped"])
def test_ranks_of_a_node_without_a_disk_read_for_themselves(
    restore: Any,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    how: str,
) -> None:
    if how == "full":
        usage = shutil.disk_usage(cache.parent)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=PAYLOAD - 1))
    elif how == "fills up":
        monkeypatch.setattr(os, "pwrite", no_space)
    elif how == "cannot be mapped":
        monkeypatch.setattr("safetensors.torch.load_file", no_space)
    else:
        cache.write_text("a file")
    results = restore(2, 2)
    assert_restored(results)
    assert [size // PAYLOAD for _, _, size in results][1] == 1
    [message] = {record.getMessage() for record in caplog.records if record.levelname == "WARNING"}
    assert str(cache / "checkpoints") in message
    reason = "Not a directory" if how == "not a folder" else "No space left on device"
    assert reason in message
    assert not list(cache.glob("checkpoints/*"))


def test_all_nodes_go_back_when_the_newest_is_damaged(
    restore: Any, settings: StorageSettings, newest: CheckpointRef, cache: Path
) -> None:
    shard = newest.manifest.shards[1]
    with Storage(settings) as storage:
        storage.write(join(newest.uri, shard.name), bytes(shard.size))
    results = restore(4, 2)
    assert [step for step, _, _ in results] == [10] * 4
    assert all(
        torch.equal(state["weight/3"], torch.full((30, 1000), 2.0)) for _, state, _ in results
    )
    assert not list(cache.glob("checkpoints/*"))


def test_what_a_killed_attempt_left_is_replaced(
    restore: Any, newest: CheckpointRef, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(shutil, "rmtree", lambda *_, **__: None)
        assert_restored(restore(2, 2))
    [left] = cache.glob("checkpoints/*")
    (left / newest.manifest.shards[0].name).write_bytes(b"half a shard")
    (left / ".0.unfinished").write_bytes(b"half a shard")
    assert_restored(restore(2, 2))
    assert not left.exists()


def test_nothing_is_left_when_storage_fails_on_another_node(
    settings: StorageSettings, newest: CheckpointRef, bucket: str, cache: Path
) -> None:
    class Unavailable(Storage):
        def download(self, uri: str, *_: Any, **__: Any) -> None:
            raise StorageUnavailableError(uri, "is not available", "wait")

    def on_rank(ranks: Ranks) -> Any:
        kind = Unavailable if ranks.topology.rank == 2 else Storage
        with kind(settings) as storage:
            return CheckpointStore(storage, f"s3://{bucket}/run/checkpoints", ranks).restore()

    results = on_ranks(4, on_rank, per_node=2, attempt=1)
    assert [type(result) for result in results] == [StorageUnavailableError] * 4
    assert not list(cache.glob("checkpoints/*"))
