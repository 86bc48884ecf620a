"""From `spec.model.source` to files on this node: fetched once, and shared by its ranks.

The folder of a model from storage is named by a hash over all names, sizes and ETags, so a model
that was changed in place is fetched again, and an unchanged one is reused.
"""

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils.tqdm import tqdm

from dreambooth_api.models.model import Model
from dreambooth_storage import ObjectNotFoundError, Storage, StoredObject
from dreambooth_trainer.models import local_files
from dreambooth_trainer.process import heartbeat
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.errors import BadModelError, TrainerError
from dreambooth_trainer.process.topology import cache_folder

FIELD = "spec.model.source"
HUB_ERRORS = (HfHubHTTPError, HFValidationError, httpx2.HTTPError, OSError)
"""What the hub's client raises; its offline errors and `LocalEntryNotFoundError` are OSErrors."""
# Only what a Stable Diffusion pipeline needs: hub repositories hold many copies of the weights.
HUB_FILES = ["*.json", "*.txt", "*.safetensors", "*.model"]


@contextmanager
def fetched(model: Model, storage: Storage, ranks: Ranks, field: str = FIELD) -> Iterator[Path]:
    """The model's files, to be loaded within the context. Collective.

    Files in memory are deleted afterwards, once every rank of the node has loaded them.

    Raises:
        BadModelError: There is no such model, or the hub refuses.
        StorageError: It cannot be read from storage.
    """
    path = fetch(model, storage, ranks, field)
    yield path
    # Other ranks of the node may still be reading what is deleted below.
    ranks.barrier()
    if ranks.topology.local_rank == 0 and not _is_local(model):
        local_files.delete_from_memory(path)


def fetch(model: Model, storage: Storage, ranks: Ranks, field: str = FIELD) -> Path:
    """A local folder (or single file) of the model; fetched by the first rank of each node.

    Collective, except for a model that is mounted.

    Raises:
        BadModelError: There is nothing at the path, or the hub refuses.
        StorageError: It cannot be read from storage.
    """
    if _is_local(model):
        path = Path(model.source.removeprefix("file://"))
        if not path.exists():
            raise BadModelError(
                f"{field}: there is nothing at {path}; mount the model or use s3://"
            )
        return path
    topology = ranks.topology
    path_here = None
    if topology.local_rank == 0:
        path_here = _fetch(model, storage, field, topology.ranks_per_node)
    # The index of this node's first rank. The gather is also the barrier behind the download.
    of_this_node = ranks.gather(path_here)[topology.rank - topology.local_rank]
    assert of_this_node is not None
    return of_this_node


def _is_local(model: Model) -> bool:
    """Whether the files are mounted: they are used in place, and never deleted."""
    return model.source.startswith(("/", "file:///"))


def _fetch(model: Model, storage: Storage, field: str, ranks_here: int) -> Path:
    if model.source.startswith("hf://"):
        return _fetch_from_hub(model, field)
    if model.layout == "single-file":
        return _fetch_file(model.source, storage, field, ranks_here)
    files = storage.list_nonempty(model.source, field=field)

    def download(folder: Path) -> None:
        storage.download_tree(model.source, folder, field=field)

    return _download_once(files, ranks_here, download)


def _fetch_file(uri: str, storage: Storage, field: str, ranks_here: int) -> Path:
    parent, _, name = uri.rpartition("/")
    files = [each for each in storage.list(parent, field=field) if each.relative == name]
    if not files:
        raise ObjectNotFoundError(
            uri, "does not exist", "correct the URI, or put the object there", field
        )

    def download(folder: Path) -> None:
        storage.download(uri, folder / name, field=field)

    return _download_once(files, ranks_here, download) / name


def _download_once(
    files: list[StoredObject], ranks_here: int, download: Callable[[Path], None]
) -> Path:
    """The folder of these files, downloaded unless it exists; it appears only when complete."""
    # 16 of 64 digits keep paths short: a collision needs billions of models on one node.
    names = "\n".join(f"{each.relative} {each.size} {each.version}" for each in files)
    key = hashlib.sha256(names.encode()).hexdigest()[:16]
    target = local_files.choose_folder(key, files, ranks_here)
    with _locked(target.with_suffix(".lock")):
        if not target.exists():
            partial = target.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
            download(partial)
            partial.rename(target)
    return target


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file: jobs that share a cache do not download the same model twice."""
    # flock(2) is released when its process dies. The file stays: deleting it would let a waiting
    # process lock a file that others no longer see.
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch_from_hub(model: Model, field: str) -> Path:
    """Files from the hub, whose client downloads only what is missing and locks by itself."""
    key = hashlib.sha256(f"{model.source}@{model.revision}".encode()).hexdigest()[:16]
    target = cache_folder() / "models" / key
    name = model.source.removeprefix("hf://")
    try:
        snapshot_download(
            name,
            revision=model.revision,
            local_dir=target,
            allow_patterns=HUB_FILES,
            tqdm_class=_HeartbeatBar,
        )
    except HUB_ERRORS as error:
        raise hub_error(model, field, error) from error
    return target


def hub_error(model: Model, field: str, error: Exception) -> TrainerError:
    """One of `HUB_ERRORS` with a message for the user.

    A `BadModelError` when the hub refuses, which no retry changes; else a plain `TrainerError`.
    """
    status = getattr(getattr(error, "response", None), "status_code", None)
    refused = isinstance(error, HFValidationError) or status in (400, 401, 403, 404)
    kind = BadModelError if refused else TrainerError
    return kind(
        f"{field}: {model.source} could not be fetched from the hub ({type(error).__name__});"
        " check its name, revision and access, or copy it to s3:// once"
    )


class _HeartbeatBar(tqdm):
    """A progress bar that sends a heartbeat whenever bytes arrive from the hub.

    The client has no other hook for it.
    """

    def update(self, n: float | None = 1) -> Any:
        """Hook of the hub's client."""
        heartbeat.send()
        return super().update(n)
