"""A rank's part of a state in host memory, in the format of the files that are uploaded.

The memory is an anonymous file (memfd_create(2)): the upload process shares it without a copy, the
size of /dev/shm does not limit it, it leaves no name behind, and it is freed with its last
descriptor. Its pages are allocated when they are first written.
"""

import logging
import mmap
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dreambooth_trainer.checkpoint.layout import Layout, StoredSlice
from dreambooth_trainer.process.divided_tensors import whole

log = logging.getLogger(__name__)


class StagedShard:
    """One shard's file in memory, of `layout.size` bytes."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.descriptor = os.memfd_create(layout.name)
        os.ftruncate(self.descriptor, layout.size)
        self._memory = mmap.mmap(self.descriptor, layout.size)
        self._memory[: len(layout.header)] = layout.header
        self._bytes = torch.frombuffer(self._memory, dtype=torch.uint8)
        self._slices = {stored.slice.name: stored for stored in layout.slices}
        self._pinned: bool | None = None  # decided by the first state: only a GPU's needs it

    @property
    def path(self) -> str:
        """A path of the file, valid in this process."""
        return f"/proc/self/fd/{self.descriptor}"

    def allocate(self) -> None:
        """Allocate the memory now, so that the first save does not take the page faults.

        Raises:
            OSError: There is not enough memory.
        """
        os.posix_fallocate(self.descriptor, 0, self.layout.size)

    def fill(self, name: str, tensor: Tensor) -> None:
        """Copy a tensor's slice, if the shard has one, to its position in the file.

        A copy from a GPU is only queued: see `Staging.wait`.
        """
        stored = self._slices.get(name)
        if stored is None or tensor.numel() == 0:
            return
        if self._pinned is None and tensor.is_cuda:
            self._pinned = self._pin()
        # Queued on the current stream, where the next step's update of the weights comes after it:
        # the copy sees the weights of this step, and no step waits for it.
        self._target(stored).copy_(_part(tensor, stored), non_blocking=True)

    def close(self) -> None:
        """Free the memory; the kernel keeps it while another process has it open."""
        if self._pinned:
            _cuda().cudaHostUnregister(self._bytes.data_ptr())
        os.close(self.descriptor)
        del self._bytes, self._memory

    def _target(self, stored: StoredSlice) -> Tensor:
        return self._bytes[stored.start : stored.stop].view(stored.dtype).view(stored.shape)

    def _pin(self) -> bool:
        """Pin the memory; returns whether that worked."""
        # Copies to pageable memory block the host, whatever `non_blocking` says. torch's own pinned
        # memory is no option: it is not a file that another process can open.
        code = int(_cuda().cudaHostRegister(self._bytes.data_ptr(), self.layout.size, 0))
        if code:
            log.warning(
                "memory for checkpoints cannot be pinned (CUDA error %d): saves are slower", code
            )
        return code == 0


class Staging:
    """All shards that this rank writes: as many bytes as its part of the state."""

    def __init__(self, layouts: Sequence[Layout]) -> None:
        self.shards = [StagedShard(layout) for layout in layouts]
        self._copied: torch.cuda.Event | None = None

    def allocate(self) -> None:
        """Allocate the memory now, rather than when it is first filled.

        Raises:
            OSError: There is not enough memory.
        """
        for shard in self.shards:
            shard.allocate()

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy this rank's part of the state, replacing the previous copy.

        Collective where ranks have parts of a tensor, one of which is whole at a time.
        """
        for name in sorted(tensors):  # in the same order on every rank
            tensor = whole(tensors[name].detach())
            for shard in self.shards:
                shard.fill(name, tensor)
        if any(tensor.is_cuda for tensor in tensors.values()):
            # Recorded on the stream of the copies, so it is reached when all of them are done.
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()

    def wait(self) -> None:
        """Wait until the copies from the GPU have arrived."""
        if self._copied is not None:
            self._copied.synchronize()

    def close(self) -> None:
        """Free the memory, once no copy from the GPU writes to it any more."""
        self.wait()
        for shard in self.shards:
            shard.close()


def _part(tensor: Tensor, stored: StoredSlice) -> Tensor:
    if stored.slice.stop - stored.slice.start == tensor.numel():
        return tensor
    return tensor.reshape(-1)[stored.slice.start : stored.slice.stop]


def _cuda() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]
