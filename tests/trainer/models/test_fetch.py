"""Models from a real S3 server, kept on the node by their content."""

import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

from dreambooth_api.models.model import Model
from dreambooth_storage import (
    NullObserver,
    Storage,
    StorageError,
    StorageSettings,
    StoredObject,
    join,
)
from dreambooth_trainer.models.load import load_family
from dreambooth_trainer.models.source.fetch import fetch, fetched, open_files
from dreambooth_trainer.models.source.local_files import choose_folder, free_memory
from dreambooth_trainer.models.source.selection import select_transformers_files
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.errors import BadModelError
from dreambooth_trainer.process.topology import Topology
from tests.trainer.thread_ranks import on_ranks

EXAMPLES = Path(__file__).parents[3] / "examples"
UNET = "unet/diffusion_pytorch_model.safetensors"
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
}
FILES = {
    "model_index.json": json.dumps(INDEX).encode(),
    "scheduler/scheduler_config.json": b"{}",
    "text_encoder/config.json": b"{}",
    "text_encoder/model.safetensors": b"t",
    "tokenizer/vocab.json": b"{}",
    "unet/config.json": b"{}",
    UNET: b"w" * 10_000,
    "vae/config.json": b"{}",
    "vae/diffusion_pytorch_model.safetensors": b"v",
}


class Reads(NullObserver):
    """A TransferObserver that counts what was read."""

    def __init__(self) -> None:
        self.bytes = 0
        self._lock = threading.Lock()

    def transferred(self, operation: str, size: int, seconds: float) -> None:
        with self._lock:
            self.bytes += size if operation == "read" else 0


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


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in memory, as pods have one."""
    with TemporaryDirectory(dir="/dev/shm") as folder:
        monkeypatch.setenv("DREAMBOOTH_MODELS_DIR", folder)
        yield Path(folder)


ALONE = Ranks(Topology())
INDEX_SIZE = len(FILES["model_index.json"])  # which is read before anything is fetched
SIZE = sum(map(len, FILES.values()))


def test_a_model_is_fetched_once(model: Model, storage: Storage, reads: Reads) -> None:
    first = fetch(model, storage, ALONE)
    assert contents(first) == FILES
    assert fetch(model, storage, ALONE) == first
    assert reads.bytes == SIZE + 2 * INDEX_SIZE


def test_a_model_that_was_changed_in_place_is_fetched_again(model: Model, storage: Storage) -> None:
    first = fetch(model, storage, ALONE)
    storage.write(join(model.source, UNET), b"v" * 10_000)
    second = fetch(model, storage, ALONE)
    assert contents(second)[UNET] == b"v" * 10_000
    assert contents(first) == FILES


def test_the_same_model_at_another_place_is_not_fetched_again(
    model: Model, storage: Storage, bucket: str, reads: Reads
) -> None:
    for name, data in FILES.items():
        storage.write(f"s3://{bucket}/copy/{name}", data)
    first = fetch(model, storage, ALONE)
    assert fetch(Model(source=f"s3://{bucket}/copy"), storage, ALONE) == first
    assert reads.bytes == SIZE + 2 * INDEX_SIZE


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
    assert reads.bytes == SIZE + 4 * INDEX_SIZE


def test_the_ranks_of_a_node_share_what_its_first_one_fetched(
    model: Model, storage: Storage, reads: Reads
) -> None:
    found = on_ranks(4, lambda ranks: fetch(model, storage, ranks), per_node=2)
    assert [contents(path) for path in found] == [FILES] * 4
    assert reads.bytes == SIZE + 2 * INDEX_SIZE  # by two ranks, into one cache


def test_a_single_file_is_kept_too(storage: Storage, bucket: str, reads: Reads) -> None:
    storage.write(f"s3://{bucket}/files/model.safetensors", b"weights")
    storage.write(f"s3://{bucket}/files/other.safetensors", b"other weights")
    single = Model(source=f"s3://{bucket}/files/model.safetensors", layout="single-file")
    for _ in range(2):
        assert fetch(single, storage, ALONE).read_bytes() == b"weights"
    assert reads.bytes == len(b"weights")
    missing = Model(source=f"s3://{bucket}/files/none.safetensors", layout="single-file")
    with pytest.raises(BadModelError, match=r"spec.model.source: there is no file \S+none.safe"):
        fetch(missing, storage, ALONE)


def test_a_model_that_fits_is_in_memory_only_while_it_is_loaded(
    model: Model, storage: Storage, cache: Path, memory: Path
) -> None:
    with fetched(model, storage, ALONE) as folder:
        assert folder.is_relative_to(memory)
        assert contents(folder) == FILES
    assert contents(memory).keys() <= {f"{folder.name}.lock"}
    assert not cache.exists()


def test_tensors_of_a_model_in_memory_outlive_its_files(
    storage: Storage, bucket: str, memory: Path, cache: Path
) -> None:
    storage.upload_tree(EXAMPLES / "tiny-sd" / "model", f"s3://{bucket}/tiny-sd")
    source = Model(source=f"s3://{bucket}/tiny-sd")
    family = load_family(source, storage, ALONE, torch.device("cpu"))
    assert not cache.exists()
    assert {path.suffix for path in memory.iterdir()} == {".lock"}
    local = load_family(
        Model(source=str(EXAMPLES / "tiny-sd" / "model")), storage, ALONE, torch.device("cpu")
    )
    expected = local.denoiser.state_dict()
    found = family.denoiser.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_model_that_does_not_fit_into_memory_goes_to_the_cache(memory: Path, cache: Path) -> None:
    def of(size: int) -> list[StoredObject]:
        return [StoredObject("s3://b/w", "w", size, datetime.now(UTC), "1")]

    assert choose_folder("name", of(1000), ranks_here=1) == memory / "name"
    assert choose_folder("name", of(2**50), ranks_here=1) == cache / "models" / "name"
    fair = free_memory() // 8  # with one copy for each rank, it does for one and not for eight
    assert choose_folder("name", of(fair), ranks_here=8) == cache / "models" / "name"


def test_a_model_that_the_node_has_is_taken_from_there(
    model: Model, storage: Storage, reads: Reads, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fetch(model, storage, ALONE)
    monkeypatch.setenv("DREAMBOOTH_MODELS_DIR", "/dev/shm/unused")
    with fetched(model, storage, ALONE) as folder:
        assert folder == first
    assert contents(first) == FILES
    assert reads.bytes == SIZE + 2 * INDEX_SIZE


def test_a_model_of_somebodys_own_is_never_deleted(storage: Storage, memory: Path) -> None:
    own = memory / "own" / "model_index.json"
    own.parent.mkdir()
    own.write_bytes(b"{}")
    for source in (str(own.parent), f"file://{own.parent}"):
        with fetched(Model(source=source), storage, ALONE) as folder:
            assert folder == own.parent
        assert own.exists()


def test_of_a_model_that_scores_only_what_is_loaded_is_fetched(
    storage: Storage, bucket: str, tmp_path: Path
) -> None:
    published = Path(shutil.copytree(EXAMPLES / "tiny-sd" / "clip", tmp_path / "clip"))
    for name in ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "README.md"):
        (published / name).write_bytes(b"not read")
    storage.upload_tree(published, f"s3://{bucket}/clip")
    source = Model(source=f"s3://{bucket}/clip")
    folder = fetch(source, storage, ALONE, select=select_transformers_files)
    assert contents(folder) == contents(EXAMPLES / "tiny-sd" / "clip")


def test_the_folder_of_a_mounted_file_is_not_listed(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be `/`."""
    (tmp_path / "model.ckpt").write_bytes(b"PK")
    monkeypatch.delattr(Storage, "list")
    for source in (f"{tmp_path}/model.ckpt", f"file://{tmp_path}/model.ckpt"):
        files = open_files(Model(source=source, layout="single-file"), storage)
        assert files.sizes == {"model.ckpt": 2}
        assert files.read("model.ckpt") == b"PK"
