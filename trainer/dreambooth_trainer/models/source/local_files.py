"""Chooses the folder for a model's files on this node.

Pods have a folder in memory: files in it are never written to a disk, and are deleted as soon as
all ranks of the node have loaded them. When memory is short, or the model is in the cache of the
node, the files go to the cache.
"""

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dreambooth_storage import StoredObject
from dreambooth_trainer.process.topology import cache_folder, models_folder

CGROUP = Path("/sys/fs/cgroup")
COPIES_PER_RANK = 2
"""Bytes in memory per byte of a file while a rank loads it: half precision becomes full."""


def choose_folder(name: str, files: Sequence[StoredObject], ranks_here: int) -> Path:
    """The folder `name` for a model's files, in memory if they fit.

    Args:
        name: A hash of the files.
        files: The files, for their sizes in bytes.
        ranks_here: Ranks of this node, each of which loads the model.
    """
    cached, memory = cache_folder() / "models" / name, models_folder()
    if memory is None or cached.exists() or not _fits(files, memory, ranks_here):
        return cached
    return memory / name


def delete_from_memory(path: Path) -> None:
    """Delete the files of a loaded model if they are in memory; raises `OSError` on failure."""
    memory = models_folder()
    if memory is not None and path.is_relative_to(memory):
        shutil.rmtree(memory / path.relative_to(memory).parts[0])


def _fits(files: Sequence[StoredObject], memory: Path, ranks_here: int) -> bool:
    size = sum(each.size for each in files)
    memory.mkdir(parents=True, exist_ok=True)
    disk = os.statvfs(memory)
    # The files themselves count against the container's memory, as a tmpfs does.
    peak = (1 + COPIES_PER_RANK * ranks_here) * size
    return size <= disk.f_bavail * disk.f_frsize and peak <= free_memory()


def free_memory() -> int:
    """Bytes of memory that this container may still take (cgroup v2, else the whole machine)."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    [available] = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    with suppress(OSError, ValueError):  # no cgroup of its own, or no limit: "max"
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        return min(available, limit - used + _reclaimable())
    return available


def _reclaimable() -> int:
    """Bytes of the page cache that the kernel frees when a process needs memory."""
    # inactive_file, as the kubelet counts for its working set. memory.current includes it.
    lines = (CGROUP / "memory.stat").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
