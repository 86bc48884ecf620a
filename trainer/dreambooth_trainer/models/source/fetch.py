"""From `spec.model.source` to files on this node: fetched once, and shared by its ranks.

The folder of a model from storage is named by a hash over all names, sizes and ETags, so a model
that was changed in place is fetched again, and an unchanged one is reused.
"""

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from dreambooth_api.models.model import Model
from dreambooth_storage import Storage, StoredObject
from dreambooth_trainer.models.source import local_files
from dreambooth_trainer.models.source.hub import download_from_hub, open_on_hub
from dreambooth_trainer.models.source.model_files import FIELD, ModelFiles, list_files
from dreambooth_trainer.models.source.selection import Selection, select_files
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.errors import BadModelError
from dreambooth_trainer.process.topology import cache_folder

Select = Callable[[Model, ModelFiles], Selection]


@contextmanager
def fetched(
    model: Model,
    storage: Storage,
    ranks: Ranks,
    field: str = FIELD,
    select: Select = select_files,
) -> Iterator[Path]:
    """The selected files of a model, to be loaded within the context. Collective.

    Files in memory are deleted afterwards, once every rank of the node has loaded them.

    Raises:
        BadModelError: There is no such model, or the hub refuses.
        StorageError: It cannot be read from storage.
    """
    path = fetch(model, storage, ranks, field, select)
    yield path
    # Other ranks of the node may still be reading what is deleted below.
    ranks.barrier()
    if ranks.topology.local_rank == 0 and not _is_local(model):
        local_files.delete_from_memory(path)


def fetch(
    model: Model,
    storage: Storage,
    ranks: Ranks,
    field: str = FIELD,
    select: Select = select_files,
) -> Path:
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
        path_here = _fetch(model, storage, field, select, topology.ranks_per_node)
    # The index of this node's first rank. The gather is also the barrier behind the download.
    of_this_node = ranks.gather(path_here)[topology.rank - topology.local_rank]
    assert of_this_node is not None
    return of_this_node


def _is_local(model: Model) -> bool:
    """Whether the files are mounted: they are used in place, and never deleted."""
    return model.source.startswith(("/", "file:///"))


def open_files(model: Model, storage: Storage, field: str = FIELD) -> ModelFiles:
    """The model's folder in storage, on this machine, or on the hub; a single file is alone in it.

    Raises:
        BadModelError: There is no file at all, or the hub refuses.
        TrainerError: The hub cannot be reached.
        StorageError: The folder cannot be listed.
    """
    folder, name = _split(model)
    if model.source.startswith("hf://"):
        files = open_on_hub(model, folder, field)
    else:
        files = list_files(folder, storage, field, only=name if _is_local(model) else None)
    if name:
        files = replace(files, sizes={name: files.sizes[name]} if name in files.sizes else {})
    if not files.sizes:
        kind = "no file" if name else "nothing at"
        raise BadModelError(
            f"{field}: there is {kind} {model.source}; correct it, or copy the model"
        )
    return files


def _split(model: Model) -> tuple[str, str | None]:
    """The model's folder, and its file in there where it is a single one."""
    if model.layout == "diffusers":
        return model.source, None
    folder, _, name = model.source.rpartition("/")
    return folder or "/", name


def _fetch(model: Model, storage: Storage, field: str, select: Select, ranks_here: int) -> Path:
    folder, name = _split(model)
    names = select(model, open_files(model, storage, field)).names
    if model.source.startswith("hf://"):
        key = hashlib.sha256(f"{folder}@{model.revision}".encode()).hexdigest()[:16]
        target = cache_folder() / "models" / key
        path = download_from_hub(model, folder, names, target, field)
    else:

        def download(target: Path) -> None:
            storage.download_tree(folder, target, select=names.__contains__, field=field)

        listed = storage.list(folder, field=field)
        objects = [each for each in listed if each.relative in names]
        path = _download_once(objects, ranks_here, download)
    return path / name if name else path


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
