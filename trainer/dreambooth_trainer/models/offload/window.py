"""The device's memory for weights that wait on the host: of the block that computes, and the next.

Copies overlap with computation: while one block computes, the block that followed it the last time
is copied, in forward and backward passes alike.
"""

import logging
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

ALIGNMENT = 256
"""Bytes to a multiple of which tensors begin: what kernels expect of memory."""


class OffloadedBlock:
    """Tensors of a block, in one piece of host memory.

    Args:
        tensors: They are copied, from any device.
        window: Where they are copied to when they are needed.
    """

    def __init__(self, tensors: Sequence[Tensor], window: "Window") -> None:
        self._window = window
        self._parts: list[tuple[slice, torch.dtype, torch.Size]] = []
        end = 0
        for tensor in tensors:
            part = slice(end, end + tensor.nbytes)
            self._parts.append((part, tensor.dtype, tensor.shape))
            end = aligned(part.stop)
        self.host = torch.empty(end, dtype=torch.uint8, device="cpu")
        if window.device.type == "cuda":
            _pin(self.host)
        for view, tensor in zip(self._views(self.host), tensors, strict=True):
            view.copy_(tensor)

    def on_device(self) -> list[Tensor]:
        """The tensors on the device: valid until two other blocks have been there."""
        return self._views(self._window.bring(self))

    def _views(self, memory: Tensor) -> list[Tensor]:
        return [memory[part].view(dtype).view(shape) for part, dtype, shape in self._parts]


class Window:
    """Two places on the device, which blocks take by turns.

    Args:
        size: Bytes of the largest block.
        device: The device.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.device = device
        self._places = torch.empty(2, size, dtype=torch.uint8, device=device)
        self._held: list[OffloadedBlock | None] = [None, None]
        self._current = 0
        self._used: tuple[OffloadedBlock | None, OffloadedBlock | None] = (None, None)
        """The last two blocks that were needed, the latter now."""
        self._following: dict[tuple[int, int], OffloadedBlock] = {}
        """The block after two others, by their ids: passes go in both directions."""
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def bring(self, block: OffloadedBlock) -> Tensor:
        """The device's memory that begins with the bytes of a block, which is copied if need be."""
        if self._held[self._current] is not block:
            self._advance(block)
        return self._places[self._current]

    def _advance(self, block: OffloadedBlock) -> None:
        before, previous = self._used
        self._following[id(before), id(previous)] = block
        self._current = 1 - self._current
        self._copy(block, self._current)
        if self._stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._stream)
        self._used = previous, block
        following = self._following.get((id(previous), id(block)))
        if following is not None:
            self._copy(following, 1 - self._current)

    def _copy(self, block: OffloadedBlock, place: int) -> None:
        """Copy a block to a place, unless it is there. On CUDA, the copy is only queued."""
        if self._held[place] is block:
            return
        self._held[place] = block
        target = self._places[place, : block.host.nbytes]
        if self._stream is None:
            target.copy_(block.host)
            return
        # What was queued before may still compute with what the place holds.
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            target.copy_(block.host, non_blocking=True)


def aligned(size: int) -> int:
    """The least multiple of `ALIGNMENT` that is not less."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _pin(memory: Tensor) -> None:
    """Pin memory until it is freed: copies from pageable memory make the host wait.

    torch's own pinned memory has a power of two of bytes, up to twice as many.
    """
    cuda: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    address = memory.data_ptr()
    if code := int(cuda.cudaHostRegister(address, memory.nbytes, 0)):
        log.warning("memory for offload cannot be pinned (CUDA error %d): steps are slower", code)
        return
    weakref.finalize(memory.untyped_storage(), cuda.cudaHostUnregister, address)
