"""Where the files of a model go on this node.

Pods have a folder in memory: what is fetched into it becomes tensors without ever meeting a disk,
and is left as soon as all ranks of the node have loaded it. Where memory is short, or the node
keeps models for later attempts and jobs, they go to the cache.
"""

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dreambooth_storage import StoredObject
from dreambooth_trainer.process.topology import cache_folder, models_folder

CGROUP = Path("/sys/fs/cgroup")
COPIES = 2
"""Of a model, in each rank, while it is loaded: half precision grows to full."""


def choose_folder(name: str, files: Sequence[StoredObject], ranks_here: int) -> Path:
    """The folder for these files, `name` being its name; `ranks_here`: ranks that load them."""
    kept, memory = cache_folder() / "models" / name, models_folder()
    if memory is None or kept.exists() or not _fits(files, memory, ranks_here):
        return kept
    return memory / name


def delete_from_memory(path: Path) -> None:
    """The model at `path` is loaded: forget its files, if they are in memory."""
    memory = models_folder()
    if memory is not None and path.is_relative_to(memory):
        shutil.rmtree(memory / path.relative_to(memory).parts[0])


def _fits(files: Sequence[StoredObject], memory: Path, ranks_here: int) -> bool:
    size = sum(each.size for each in files)
    memory.mkdir(parents=True, exist_ok=True)
    room = os.statvfs(memory)
    whole = (1 + COPIES * ranks_here) * size
    return size <= room.f_bavail * room.f_frsize and whole <= free_memory()


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
    """Bytes of files that the kernel keeps for as long as nobody needs the room."""
    lines = (CGROUP / "memory.stat").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
