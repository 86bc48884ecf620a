"""Models from a real S3 server, kept on the node by their content."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dreambooth_api.model import Model
from dreambooth_trainer.config import Topology
from dreambooth_trainer.distributed import Ranks
from dreambooth_trainer.families.fetch import fetch
from dreambooth_trainer.storage import NotFound, Storage, StorageError, StorageSettings, join
from tests.trainer.gathering import on_ranks

FILES = {"model_index.json": b"{}", "unet/weights.safetensors": b"w" * 10_000}


class Reads:
    """A TransferObserver that counts what was read."""

    def __init__(self) -> None:
        self.bytes = 0
        self._lock = threading.Lock()

    def transferred(self, operation: str, size: int, seconds: float) -> None:
        with self._lock:
            self.bytes += size if operation == "read" else 0

    def failed(self, operation: str, error_code: str) -> None:
        """Not of interest."""


@pytest.fixture
def reads() -> Reads:
    return Reads()


@pytest.fixture
def storage(s3_endpoint: str, bucket: str, reads: Reads) -> Storage:
    return Storage(StorageSettings(s3_endpoint, None, "path"), reads)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DREAMBOOTH_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(storage: Storage, bucket: str) -> Model:
    for name, data in FILES.items():
        storage.write(f"s3://{bucket}/model/{name}", data)
    return Model(source=f"s3://{bucket}/model")


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


ALONE = Ranks(Topology())
SIZE = sum(map(len, FILES.values()))


def test_a_model_is_fetched_once(model: Model, storage: Storage, reads: Reads) -> None:
    first = fetch(model, storage, ALONE)
    assert contents(first) == FILES
    assert fetch(model, storage, ALONE) == first
    assert reads.bytes == SIZE


def test_a_model_that_was_changed_in_place_is_fetched_again(model: Model, storage: Storage) -> None:
    first = fetch(model, storage, ALONE)
    storage.write(join(model.source, "unet/weights.safetensors"), b"v" * 10_000)
    second = fetch(model, storage, ALONE)
    assert contents(second)["unet/weights.safetensors"] == b"v" * 10_000
    assert contents(first) == FILES


def test_the_same_model_at_another_place_is_not_fetched_again(
    model: Model, storage: Storage, bucket: str, reads: Reads
) -> None:
    for name, data in FILES.items():
        storage.write(f"s3://{bucket}/copy/{name}", data)
    first = fetch(model, storage, ALONE)
    assert fetch(Model(source=f"s3://{bucket}/copy"), storage, ALONE) == first
    assert reads.bytes == SIZE


def test_a_download_that_was_cut_short_is_not_taken_for_a_model(
    model: Model, storage: Storage, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(self: Storage, uri: str, path: Path, **_: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name("half").write_bytes(b"w" * 100)
        raise StorageError(uri, "broke off", "try again")

    with monkeypatch.context() as broken:
        broken.setattr(Storage, "download", break_off)
        with pytest.raises(StorageError, match="broke off"):
            fetch(model, storage, ALONE)
    assert contents(fetch(model, storage, ALONE)) == FILES
    assert {path.suffix for path in (cache / "models").iterdir()} == {"", ".lock"}


def test_jobs_of_one_node_that_start_at_once_share_one_download(
    model: Model, storage: Storage, reads: Reads
) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: fetch(model, storage, ALONE), range(4)))
    assert len(set(found)) == 1
    assert reads.bytes == SIZE


def test_the_ranks_of_a_node_share_what_its_first_one_fetched(
    model: Model, storage: Storage, reads: Reads
) -> None:
    def of_rank(rank: int, gather: Any) -> Path:
        ranks = Ranks(Topology(rank=rank, local_rank=rank % 2, world_size=4, ranks_per_node=2))
        ranks.gather = gather  # type: ignore[method-assign]
        return fetch(model, storage, ranks)

    found = on_ranks(4, of_rank)
    assert [contents(path) for path in found] == [FILES] * 4
    assert reads.bytes == SIZE


def test_a_single_file_is_kept_too(storage: Storage, bucket: str, reads: Reads) -> None:
    storage.write(f"s3://{bucket}/files/model.safetensors", b"weights")
    storage.write(f"s3://{bucket}/files/other.safetensors", b"other weights")
    single = Model(source=f"s3://{bucket}/files/model.safetensors", layout="single-file")
    for _ in range(2):
        assert fetch(single, storage, ALONE).read_bytes() == b"weights"
    assert reads.bytes == len(b"weights")
    missing = Model(source=f"s3://{bucket}/files/none.safetensors", layout="single-file")
    with pytest.raises(NotFound, match=r"spec.model.source: \S+none.safetensors does not exist"):
        fetch(missing, storage, ALONE)
