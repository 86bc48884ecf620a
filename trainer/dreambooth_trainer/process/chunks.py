"""Shares work among the ranks, in chunks whose results do not depend on the number of ranks."""

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.topology import Topology

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK_SIZE = 8
"""Items of a chunk: images that one forward pass takes. Kernels round differently for other batch
sizes, so the size is fixed, and a chunk is never divided between ranks."""

LARGEST_PASS = CHUNK_SIZE * 512**2
"""Pixels of the images that one forward pass generates, which bounds its memory."""


def images_per_pass(resolution: int) -> int:
    """Images of `resolution` x `resolution` pixels to generate at once, on any device."""
    return max(min(CHUNK_SIZE, LARGEST_PASS // resolution**2), 1)


def own_chunks(
    items: Sequence[Item], topology: Topology, size: int = CHUNK_SIZE, *, in_step: bool = False
) -> dict[int, Sequence[Item]]:
    """This rank's chunks of `items` by number, dealt out round-robin.

    Args:
        items: Those of all ranks.
        topology: Of the ranks.
        size: Items of a chunk.
        in_step: Every rank gets as many chunks: the last one goes to those that would have fewer.

    Returns:
        Up to `size` items per chunk; the numbers of rank r are r, r + world size, ...
    """
    starts = range(0, len(items), size)
    stop = len(starts)
    if in_step:
        stop = math.ceil(stop / topology.world_size) * topology.world_size
    numbers = (min(n, len(starts) - 1) for n in range(topology.rank, stop, topology.world_size))
    return {n: items[starts[n] : starts[n] + size] for n in numbers}


def gather_chunks(ranks: Ranks, results: Mapping[int, Result]) -> list[Result]:
    """The results of all ranks' chunks, in the order of the items, on every rank. Collective.

    Args:
        ranks: All ranks, each of which has worked on all of its `own_chunks`.
        results: This rank's, by the numbers of their chunks.
    """
    merged = {number: part for parts in ranks.gather(results) for number, part in parts.items()}
    return [merged[number] for number in sorted(merged)]
