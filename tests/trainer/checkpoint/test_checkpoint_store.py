import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.checkpoint import CheckpointRef, CheckpointStore, phases
from dreambooth_trainer.checkpoint.manifest import (
    DamagedCheckpointError,
    UnknownFormatError,
    read_manifest,
)
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.errors import FencedError
from tests.trainer.checkpoint_saves import load, rank_of, save
from tests.trainer.thread_ranks import on_ranks

State = dict[str, torch.Tensor]


@pytest.fixture
def storage() -> Storage:
    return Storage(StorageSettings(endpoint_url=None, region=None, addressing_style="auto"))


def state(seed: int, scale: int = 1) -> State:
    draw = torch.Generator().manual_seed(seed)
    return {
        "unet.weight": torch.randn(40 * scale, 33, generator=draw),
        "unet.bias": torch.randn(33, generator=draw).bfloat16(),
        "optimizer.step": torch.tensor(float(seed)),
        "empty": torch.zeros(0, 4),
        "counter": torch.arange(5),
    }


def assert_same(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def open_store(
    storage: Storage, folder: Path, ranks: Ranks | None = None, *, attempt: int = 0, **options: Any
) -> CheckpointStore:
    store = CheckpointStore(storage, f"file://{folder}", ranks or rank_of(attempt), **options)
    store.claim()
    return store


def files(folder: Path) -> Iterator[str]:
    return (str(p.relative_to(folder)) for p in sorted(folder.rglob("*")) if p.is_file())


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_what_is_saved_is_restored_by_any_number_of_ranks(
    storage: Storage, tmp_path: Path, ranks: int
) -> None:
    def save_on(each: Ranks) -> CheckpointRef:
        store = open_store(storage, tmp_path, each, fingerprint="f")
        return save(storage, store, 7, state(1), loss=0.5)

    refs = on_ranks(ranks, save_on)
    assert all(ref == refs[0] for ref in refs)
    restored = open_store(storage, tmp_path, attempt=1).restore()
    assert restored is not None
    assert_same(restored[0], state(1))
    manifest = restored[1].manifest
    assert (manifest.step, manifest.attempt, manifest.world_size) == (7, 0, ranks)
    assert (manifest.loss, manifest.fingerprint) == (0.5, "f")
    assert len(manifest.shards) == ranks


def test_each_rank_writes_its_part_and_no_more(storage: Storage, tmp_path: Path) -> None:
    tensors = state(1, scale=400)
    payload = sum(t.nbytes for t in tensors.values())

    def save_on(ranks: Ranks) -> CheckpointRef:
        return save(storage, open_store(storage, tmp_path, ranks), 1, tensors)

    manifest = on_ranks(4, save_on)[0].manifest
    assert all(abs(shard.size / (payload / 4) - 1) < 0.1 for shard in manifest.shards)
    stored = sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())
    assert stored <= 1.02 * payload
    assert (manifest.payload_bytes, manifest.total_bytes) == (
        payload,
        sum(s.size for s in manifest.shards),
    )


def test_a_large_state_is_written_in_bounded_shards(storage: Storage, tmp_path: Path) -> None:
    store = open_store(storage, tmp_path, max_shard=1000)
    ref = save(storage, store, 1, state(1))
    assert len(ref.manifest.shards) == 6
    assert_same(load(store, ref), state(1))


def test_without_a_checkpoint_there_is_nothing_to_restore(storage: Storage, tmp_path: Path) -> None:
    store = open_store(storage, tmp_path)
    assert store.restore() is None
    assert store.checkpoints() == []


def path_of(ref: CheckpointRef) -> Path:
    return Path(ref.uri.removeprefix("file://"))


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def disguise_a_pickle(path: Path) -> None:
    torch.save({"unet.weight": torch.zeros(1)}, path)


@pytest.mark.parametrize("name", ["shard-00000-of-00001.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", [Path.unlink, flip_a_bit, cut_short, disguise_a_pickle])
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(
    storage: Storage, tmp_path: Path, damage: Callable[[Path], None], name: str
) -> None:
    store = open_store(storage, tmp_path)
    save(storage, store, 10, state(1))
    newer = save(storage, store, 20, state(2))
    damage(path_of(newer) / name)
    restored = open_store(storage, tmp_path, attempt=1).restore()
    assert restored is not None
    assert restored[1].step == 10
    assert_same(restored[0], state(1))


def test_all_ranks_fall_back_when_one_of_them_reads_garbage(
    storage: Storage, tmp_path: Path
) -> None:
    store = open_store(storage, tmp_path)
    save(storage, store, 10, state(1))
    save(storage, store, 20, state(2))

    class Unlucky(Storage):
        def read_many(self, uris: Any, **options: Any) -> Iterator[tuple[str, bytes]]:
            for uri, data in super().read_many(uris, **options):
                yield uri, data[:-1] if "step-00000020" in uri and "shard" in uri else data

    unlucky = Unlucky(StorageSettings(endpoint_url=None, region=None, addressing_style="auto"))

    def restore(ranks: Ranks) -> Any:
        own = unlucky if ranks.topology.rank == 1 else storage
        found = open_store(own, tmp_path, ranks).restore()
        return found[1].step if found else None

    assert on_ranks(2, restore, attempt=1) == [10, 10]


def test_a_checkpoint_with_a_cut_shard_is_skipped(storage: Storage, tmp_path: Path) -> None:
    store = open_store(storage, tmp_path)
    save(storage, store, 10, state(1))
    newer = save(storage, store, 20, state(2))
    cut_short(path_of(newer) / newer.manifest.shards[0].name)
    assert [ref.step for ref in store.checkpoints()] == [10]


def test_a_manifest_that_was_edited_is_not_believed(storage: Storage, tmp_path: Path) -> None:
    store = open_store(storage, tmp_path)
    path = path_of(save(storage, store, 10, state(1))) / "manifest.json"
    path.write_text(path.read_text().replace('"step": 10', '"step": 99'))
    assert store.checkpoints() == []


def test_swapped_shards_are_noticed(storage: Storage, tmp_path: Path) -> None:
    store = open_store(storage, tmp_path, max_shard=3000)
    ref = save(storage, store, 1, state(1))
    first, second = (path_of(ref) / shard.name for shard in ref.manifest.shards)
    a, b = first.read_bytes(), second.read_bytes()
    first.write_bytes(b)
    second.write_bytes(a)
    with pytest.raises(DamagedCheckpointError, match="sha256"):
        load(store, ref)


def test_shards_without_a_commit_are_no_checkpoint(storage: Storage, tmp_path: Path) -> None:
    store = open_store(storage, tmp_path)
    ref = save(storage, store, 10, state(1))
    (tmp_path / "log" / f"{ref.number:08d}.json").unlink()
    assert store.checkpoints() == []


def test_an_unknown_format_is_refused_not_skipped(storage: Storage, tmp_path: Path) -> None:
    store = open_store(storage, tmp_path)
    ref = save(storage, store, 10, state(1))
    path = tmp_path / "log" / f"{ref.number:08d}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    with pytest.raises(UnknownFormatError, match="format version 2, this trainer reads version 1"):
        open_store(storage, tmp_path, attempt=1)


@pytest.mark.parametrize(
    "name", ["../../secret", "/etc/passwd", "x/shard-00000-of-00001.safetensors"]
)
def test_a_manifest_cannot_point_outside_its_folder(
    storage: Storage, tmp_path: Path, name: str
) -> None:
    store = open_store(storage, tmp_path)
    ref = save(storage, store, 10, state(1))
    folder = path_of(ref)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"][0]["name"] = name
    data = json.dumps(manifest).encode()
    (folder / "manifest.json").write_bytes(data)
    commit = tmp_path / "log" / f"{ref.number:08d}.json"
    entry = json.loads(commit.read_text())
    entry["manifestSha256"] = hashlib.sha256(data).hexdigest()
    commit.write_text(json.dumps(entry))
    assert store.checkpoints() == []
    with pytest.raises(DamagedCheckpointError, match=r"shards.0.name"):
        read_manifest(data, "manifest.json")


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "MAX_RETRY_SECONDS", 0.0)


def test_an_error_on_one_rank_is_raised_on_all(
    storage: Storage, tmp_path: Path, no_pauses: None
) -> None:
    class Full(Storage):
        def stream(self, path: str | Path, uri: str, *, field: str = "") -> Any:
            raise OSError("no space left")

    full = Full(StorageSettings(endpoint_url=None, region=None, addressing_style="auto"))

    def save_on(ranks: Ranks) -> CheckpointRef:
        own = full if ranks.topology.rank == 1 else storage
        return save(own, open_store(own, tmp_path, ranks), 1, state(1))

    errors = on_ranks(2, save_on)
    assert [type(e) for e in errors] == [OSError, OSError]
    assert open_store(storage, tmp_path, attempt=1).checkpoints() == []


def test_a_commit_whose_answer_is_lost_is_tried_again(
    storage: Storage, tmp_path: Path, no_pauses: None
) -> None:
    class Flaky(Storage):
        broken = True

        def write(
            self, uri: str, data: bytes, *, only_if_absent: bool = False, field: str = ""
        ) -> Any:
            written = super().write(uri, data, only_if_absent=only_if_absent)
            if self.broken and "log/00000001" in uri:
                self.broken = False
                raise OSError("the answer was lost")
            return written

    flaky = Flaky(StorageSettings(endpoint_url=None, region=None, addressing_style="auto"))
    store = open_store(flaky, tmp_path)
    save(flaky, store, 10, state(1))
    assert not flaky.broken
    save(flaky, store, 20, state(2))
    assert [ref.step for ref in store.checkpoints()] == [20, 10]


def test_a_stale_attempt_cannot_commit_nor_delete(storage: Storage, tmp_path: Path) -> None:
    stale = open_store(storage, tmp_path, attempt=0)
    save(storage, stale, 10, state(1))
    newer = open_store(storage, tmp_path, attempt=1)
    save(storage, newer, 15, state(3))
    with pytest.raises(FencedError, match="attempt 0"):
        save(storage, stale, 20, state(2))
    with pytest.raises(FencedError):
        stale.prune(1)
    with pytest.raises(FencedError):
        save(storage, stale, 20, state(2))
    assert [ref.step for ref in newer.checkpoints()] == [15, 10]


def test_a_stale_attempt_cannot_come_back(storage: Storage, tmp_path: Path) -> None:
    open_store(storage, tmp_path, attempt=3)
    with pytest.raises(FencedError, match="attempt 2 comes too late: attempt 3"):
        open_store(storage, tmp_path, attempt=2)


def test_the_same_attempt_started_again_takes_over(storage: Storage, tmp_path: Path) -> None:
    first = open_store(storage, tmp_path)
    save(storage, first, 10, state(1))
    second = open_store(storage, tmp_path)
    save(storage, second, 20, state(2))
    with pytest.raises(FencedError):
        save(storage, first, 30, state(3))
    assert [ref.step for ref in second.checkpoints()] == [20, 10]


def test_attempts_that_claim_at_once_leave_one_owner(storage: Storage, tmp_path: Path) -> None:
    def claim_and_save(attempt: int) -> CheckpointStore | FencedError:
        try:
            store = open_store(storage, tmp_path, attempt=attempt)
            save(storage, store, 10 + attempt, state(attempt))
        except FencedError as error:
            return error
        return store

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(claim_and_save, range(6)))
    entries = [json.loads(p.read_text()) for p in sorted((tmp_path / "log").iterdir())]
    claims = [e["attempt"] for e in entries if e["kind"] == "claim"]
    assert claims == sorted(claims)
    assert claims[-1] == 5
    for number, entry in enumerate(entries):
        if entry["kind"] == "commit":
            owner = max(n for n, e in enumerate(entries[:number]) if e["kind"] == "claim")
            assert entry["attempt"] == entries[owner]["attempt"]


def test_retention_keeps_the_newest_and_sweeps_up_after_dead_attempts(
    storage: Storage, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("not mine")
    dead = open_store(storage, tmp_path, attempt=0)
    save(storage, dead, 10, state(1))
    debris = tmp_path / "step-00000020-claim-0000" / "shard-00000-of-00002.safetensors"
    debris.parent.mkdir()
    debris.write_bytes(b"half a shard")
    (debris.parent / ".0123456789abcdef.unfinished").write_bytes(b"killed while it wrote")
    store = open_store(storage, tmp_path, attempt=1)
    for step in (20, 30, 40):
        save(storage, store, step, state(step))
    for folder in ("step-00000050-claim-0002", "step-00000001-claim-0009"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "shard-00000-of-00001.safetensors").write_bytes(b"being written")
    store.prune(2)
    assert [ref.step for ref in store.checkpoints()] == [40, 30]
    folders = {name.split("/")[0] for name in files(tmp_path)}
    kept = {"step-00000030-claim-0002", "step-00000040-claim-0002", "log", "notes.txt"}
    assert folders == kept | {"step-00000050-claim-0002", "step-00000001-claim-0009"}
    save(storage, store, 50, state(50))
    with pytest.raises(FencedError):
        save(storage, dead, 60, state(1))
    restored = open_store(storage, tmp_path, attempt=2).restore()
    assert restored is not None
    assert_same(restored[0], state(50))


def test_retention_keeps_the_best_checkpoint_beside_the_newest(
    storage: Storage, tmp_path: Path
) -> None:
    store = open_store(storage, tmp_path)
    for step, loss in ((10, 0.5), (20, 0.2), (30, None), (40, 0.4), (50, 0.3), (60, 0.9)):
        save(storage, store, step, state(step), loss=loss, keep=2)
    assert [ref.step for ref in store.checkpoints()] == [60, 50, 20]
    later = open_store(storage, tmp_path, attempt=1)
    save(storage, later, 70, state(70), loss=0.1, keep=2)
    assert [ref.step for ref in later.checkpoints()] == [70, 60]


def test_retention_does_not_count_a_checkpoint_found_damaged(
    storage: Storage, tmp_path: Path
) -> None:
    first = open_store(storage, tmp_path)
    save(storage, first, 10, state(1))
    flip_a_bit(path_of(save(storage, first, 20, state(2))) / "shard-00000-of-00001.safetensors")
    second = open_store(storage, tmp_path, attempt=1)
    assert second.restore() is not None
    second.prune(1)
    assert [ref.step for ref in second.checkpoints()] == [10]
    save(storage, second, 20, state(2))
    restored = open_store(storage, tmp_path, attempt=2).restore()
    assert restored is not None
    assert_same(restored[0], state(2))
