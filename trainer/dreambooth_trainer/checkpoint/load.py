"""Loads a checkpoint on all ranks. A node downloads it once, however many ranks it has.

The node's first rank writes the verified shards to files, which all its ranks map into memory. The
files are deleted as soon as they are mapped. A node without room for them goes without: each of its
ranks then reads the checkpoint from storage.
"""

import errno
import hashlib
import logging
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from torch import Tensor

from dreambooth_storage import (
    ChecksumMismatchError,
    LocalFileError,
    ObjectNotFoundError,
    Storage,
    join,
)
from dreambooth_storage.parallel import run_all
from dreambooth_trainer.checkpoint.manifest import CheckpointRef, DamagedCheckpointError, Shard
from dreambooth_trainer.checkpoint.shards import map_state, read_state, shards_with
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.topology import Topology, cache_folder

log = logging.getLogger(__name__)

SHARDS_AT_ONCE = 8


def load_on_all(
    storage: Storage, ref: CheckpointRef, ranks: Ranks, group: str | None = None
) -> tuple[dict[str, Tensor], None] | tuple[None, str]:
    """The state on every rank, and no problem; or on every rank the problem of the first.

    Collective. A problem is a checkpoint that is damaged. With a `group`, such as `weight`, the
    tensors of others are left out, and shards that hold none of it are not read.

    Raises:
        StorageError: Storage fails, which does not mean that the checkpoint is damaged.
    """
    tensors: dict[str, Tensor] = {}

    def load() -> str | None:
        nonlocal tensors  # stays on its rank: only the problems are gathered
        try:
            tensors = _read(storage, ref, folder if is_here else None, group)
        except DamagedCheckpointError as error:
            return str(error)
        return None

    folder = _folder_of_node(ref, ranks.topology)
    try:
        is_here, problem = _download_on_nodes(storage, ref, ranks, folder, group)
        if problem is None:
            problem = next((each for each in ranks.run_on_all(load) if each is not None), None)
    finally:
        if ranks.topology.local_rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
    return (tensors, None) if problem is None else (None, problem)


def _folder_of_node(ref: CheckpointRef, topology: Topology) -> Path:
    """The same for every attempt, so that a killed one leaves no more than this behind."""
    # With the node's number, as a local run has several nodes on one machine.
    name = hashlib.sha256(ref.uri.encode()).hexdigest()[:16]
    return cache_folder() / "checkpoints" / f"{name}-{topology.rank // topology.ranks_per_node}"


def _read(
    storage: Storage, ref: CheckpointRef, folder: Path | None, group: str | None
) -> dict[str, Tensor]:
    if folder is not None:
        try:
            return map_state(folder, ref, group)
        except OSError as error:
            log.warning("%s cannot be mapped, and is read from storage: %s", folder, error)
    return read_state(storage, ref, group)


def _download_on_nodes(
    storage: Storage, ref: CheckpointRef, ranks: Ranks, folder: Path, group: str | None
) -> tuple[bool, str | None]:
    """Whether the shards are in this node's folder, and the first problem of any. Collective.

    They are not where a rank is alone on its node, nor where the disk has no room.
    """
    topology = ranks.topology
    if topology.ranks_per_node == 1:
        return False, None

    def download() -> tuple[bool, str | None]:
        if topology.local_rank != 0:
            return False, None
        try:
            _download(storage, ref, folder, shards_with(ref, group))
        except (ObjectNotFoundError, ChecksumMismatchError) as error:
            return False, f"{ref.uri} is damaged: {error}"
        except (LocalFileError, OSError) as error:
            log.warning(
                "each of the %d ranks here reads the checkpoint from storage, as it cannot be kept"
                " in %s: %s",
                topology.ranks_per_node,
                folder,
                error,
            )
            return False, None
        return True, None

    results = ranks.run_on_all(download)
    problem = next((each for _, each in results if each is not None), None)
    is_here, _ = results[topology.rank - topology.local_rank]
    return is_here, problem


def _download(storage: Storage, ref: CheckpointRef, folder: Path, shards: Sequence[Shard]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # Asked before: a node whose disk is filled evicts its pods.
    if shutil.disk_usage(folder).free < sum(shard.size for shard in shards):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with ThreadPoolExecutor(SHARDS_AT_ONCE, thread_name_prefix="checkpoint") as pool:
        run_all(
            pool,
            [
                partial(
                    storage.download,
                    join(ref.uri, shard.name),
                    folder / shard.name,
                    sha256=shard.sha256,
                    durable=False,
                    field="spec.output",
                )
                for shard in shards
            ],
        )
