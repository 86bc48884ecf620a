"""A rank's part of a state in host memory, already in the form of the files that are uploaded.

The memory is an anonymous file: another process can be given it without a copy, it counts to no
limit of /dev/shm, has no name that could be left behind, and is freed with its last descriptor.
Its pages are allocated when they are first written.
"""

import logging
import mmap
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dreambooth_trainer.checkpoint.layout import Layout, StoredSlice

log = logging.getLogger(__name__)


class StagedShard:
    """One shard's file in memory."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.descriptor = os.memfd_create(layout.name)
        os.ftruncate(self.descriptor, layout.size)
        self._memory = mmap.mmap(self.descriptor, layout.size)
        self._memory[: len(layout.header)] = layout.header
        self._bytes = torch.frombuffer(self._memory, dtype=torch.uint8)
        self._pinned: bool | None = None  # decided by the first state: only a GPU's needs it

    @property
    def path(self) -> str:
        """A path of the file, for this process."""
        return f"/proc/self/fd/{self.descriptor}"

    def allocate(self) -> None:
        """Allocate the memory now."""
        os.posix_fallocate(self.descriptor, 0, self.layout.size)

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the tensors' slices to their places in the file.

        Copies from a GPU are only queued, on its current stream: there, the next step's changes of
        the weights come after them.
        """
        sources = {stored: tensors[stored.slice.name].detach() for stored in self.layout.slices}
        if self._pinned is None and any(source.is_cuda for source in sources.values()):
            self._pinned = self._pin()
        for stored, source in sources.items():
            if source.numel():
                self._target(stored).copy_(_part(source, stored), non_blocking=True)

    def close(self) -> None:
        """Free the memory, as soon as no other process has it open."""
        if self._pinned:
            _cuda().cudaHostUnregister(self._bytes.data_ptr())
        os.close(self.descriptor)
        del self._bytes, self._memory

    def _target(self, stored: StoredSlice) -> Tensor:
        return self._bytes[stored.start : stored.stop].view(stored.dtype).view(stored.shape)

    def _pin(self) -> bool:
        """Pin the memory, so that copies need not be waited for; returns whether that worked."""
        code = int(_cuda().cudaHostRegister(self._bytes.data_ptr(), self.layout.size, 0))
        if code:
            log.warning(
                "memory for checkpoints cannot be pinned (CUDA error %d): saves are slower", code
            )
        return code == 0


class Staging:
    """All shards that this rank writes."""

    def __init__(self, layouts: Sequence[Layout]) -> None:
        self.shards = [StagedShard(layout) for layout in layouts]
        self._copied: torch.cuda.Event | None = None

    def allocate(self) -> None:
        """Allocate the memory now, rather than when it is first filled."""
        for shard in self.shards:
            shard.allocate()

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy this rank's part of the state, replacing the copy before."""
        for shard in self.shards:
            shard.fill(tensors)
        if any(tensor.is_cuda for tensor in tensors.values()):
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()

    def wait(self) -> None:
        """Wait until the copies from the GPU have arrived."""
        if self._copied is not None:
            self._copied.synchronize()

    def close(self) -> None:
        """Free the memory."""
        for shard in self.shards:
            shard.close()


def _part(tensor: Tensor, stored: StoredSlice) -> Tensor:
    if stored.slice.stop - stored.slice.start == tensor.numel():
        return tensor
    return tensor.reshape(-1)[stored.slice.start : stored.slice.stop]


def _cuda() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]
