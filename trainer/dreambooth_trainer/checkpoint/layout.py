"""The position of each tensor in a shard's safetensors file. Pure.

As the layout is known in advance, a state is copied once, directly to its position in the file.
Format: https://huggingface.co/docs/safetensors (8 bytes of the header's length, the header in
JSON, the tensors without gaps).
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dreambooth_trainer.checkpoint.manifest import Piece
from dreambooth_trainer.checkpoint.split import Slice

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class StoredSlice:
    """The position of a slice in the file: bytes `start` to `stop`."""

    slice: Slice
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Layout:
    """A shard's file: its header, and the position of each slice in bytes from its start."""

    name: str
    header: bytes
    """Its first bytes, the length of the JSON header included."""
    slices: tuple[StoredSlice, ...]
    pieces: Mapping[str, Piece]
    """The tensors of which the file holds only a part."""

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.slices[-1].stop if self.slices else len(self.header)


def plan_layout(name: str, tensors: Mapping[str, Tensor], slices: Sequence[Slice]) -> Layout:
    """The layout of a shard; whole tensors keep their shapes, pieces are flat.

    Args:
        name: Name of the file.
        tensors: The whole state by name; only shapes and dtypes are read.
        slices: The shard's part of it, see `split.split`.
    """
    # The widest types first, after a padded header, so that every element is aligned and `staging`
    # can view its bytes as a tensor.
    ordered = sorted(slices, key=lambda s: (-tensors[s.name].element_size(), s.name))
    stored, offset = [], 0
    for each in ordered:
        tensor = tensors[each.name]
        stop = offset + (each.stop - each.start) * tensor.element_size()
        stored.append(StoredSlice(each, tensor.dtype, _shape(tensor, each), offset, stop))
        offset = stop
    header = _header(stored)
    return Layout(
        name,
        header,
        tuple(
            replace(each, start=each.start + len(header), stop=each.stop + len(header))
            for each in stored
        ),
        {
            each.name: Piece(start=each.start, shape=list(tensors[each.name].shape))
            for each in slices
            if not _is_whole(tensors[each.name], each)
        },
    )


def _is_whole(tensor: Tensor, part: Slice) -> bool:
    return part.stop - part.start == tensor.numel()


def _shape(tensor: Tensor, part: Slice) -> tuple[int, ...]:
    return tuple(tensor.shape) if _is_whole(tensor, part) else (part.stop - part.start,)


def _header(stored: Sequence[StoredSlice]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for each in stored:
        entries[each.slice.name] = {
            "dtype": DTYPES[each.dtype],
            "shape": each.shape,
            "data_offsets": [each.start, each.stop],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    # The format allows spaces after the JSON: the tensors then start at a multiple of 8 bytes.
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
