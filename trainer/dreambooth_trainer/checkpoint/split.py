"""Divides a state into shards of equal size. Pure.

The tensors, ordered by name, form one long stream of bytes that is cut at equal distances, so that
shards differ by less than one element. A tensor at a cut is stored as flat pieces; there are fewer
such tensors than shards.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Slice:
    """Elements `start` to `stop` of the flattened tensor `name`."""

    name: str
    start: int
    stop: int


def split(tensors: Mapping[str, Tensor], shards: int) -> list[list[Slice]]:
    """Cut a state into `shards` shards of equal size.

    Returns:
        The slices of each shard; together they cover every element exactly once.
    """
    total = payload(tensors.values())
    # The last cut is beyond the end: empty tensors there belong to the last shard.
    cuts = [total * i // shards for i in range(shards)] + [total + 1]
    plan: list[list[Slice]] = [[] for _ in range(shards)]
    offset = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        for shard in range(shards):
            piece = _cut(name, tensor, cuts[shard] - offset, cuts[shard + 1] - offset)
            if piece is not None:
                plan[shard].append(piece)
        offset += tensor.nbytes
    return plan


def _cut(name: str, tensor: Tensor, begin: int, end: int) -> Slice | None:
    """The part of `tensor` whose elements begin in its bytes [begin, end); None: no element."""
    size, count = tensor.element_size(), tensor.numel()
    if count == 0:
        return Slice(name, 0, 0) if begin <= 0 < end else None
    start = min(max(math.ceil(begin / size), 0), count)
    stop = min(max(math.ceil(end / size), 0), count)
    return Slice(name, start, stop) if start < stop else None


def payload(tensors: Iterable[Tensor]) -> int:
    """Bytes of the tensors."""
    return sum(tensor.nbytes for tensor in tensors)


def join(pieces: list[tuple[int, Tensor]], shape: list[int]) -> Tensor:
    """Assemble a tensor from its flat pieces.

    Args:
        pieces: Each with the index of its first element in the flattened tensor.
        shape: Of the whole tensor.

    Raises:
        ValueError: Pieces are missing, overlap, or do not fill the shape.
    """
    end, parts = 0, sorted(pieces, key=lambda piece: piece[0])
    for start, part in parts:
        if start != end:
            raise ValueError(f"a piece begins at element {start} instead of {end}")
        end += part.numel()
    if end != math.prod(shape):
        raise ValueError(f"the pieces hold {end} elements, the shape {shape} does not")
    return torch.cat([part.reshape(-1) for _, part in parts]).reshape(shape)
