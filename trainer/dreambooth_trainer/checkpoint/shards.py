"""A state as safetensors files: their entries in the manifest, and reading them back."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from dreambooth_storage import ChecksumMismatchError, ObjectNotFoundError, Storage, Written, join
from dreambooth_trainer.checkpoint import split
from dreambooth_trainer.checkpoint.layout import Layout
from dreambooth_trainer.checkpoint.manifest import CheckpointRef, DamagedCheckpointError, Shard


def shard_entry(layout: Layout, written: Written) -> Shard:
    """The entry of a stored shard in its manifest."""
    return Shard(
        name=layout.name,
        size=written.size,
        sha256=written.sha256,
        tensors=len(layout.slices),
        pieces=dict(layout.pieces),
        groups=sorted({group_of(each.slice.name) for each in layout.slices}),
    )


def group_of(name: str) -> str:
    """What a tensor is of a state, by its name: `weight`, `average`, `exp_avg` and so on."""
    return name.partition("/")[0]


def shards_with(ref: CheckpointRef, group: str | None) -> list[Shard]:
    """The shards that hold tensors of a group; None: all. Those of earlier versions do not say."""
    return [
        shard
        for shard in ref.manifest.shards
        if group is None or shard.groups is None or group in shard.groups
    ]


def read_state(storage: Storage, ref: CheckpointRef, group: str | None = None) -> dict[str, Tensor]:
    """The tensors of a group by name, on the CPU; None: the whole state.

    Raises:
        DamagedCheckpointError: A shard is missing, or is not what was written.
    """
    shards = {join(ref.uri, shard.name): shard for shard in shards_with(ref, group)}
    expected = {uri: shard.sha256 for uri, shard in shards.items()}
    contents = storage.read_many(list(shards), sha256=expected, field="spec.output")
    parts = ((shards[uri], safetensors.torch.load(data)) for uri, data in contents)
    return _assemble(parts, ref, group)


def map_state(folder: Path, ref: CheckpointRef, group: str | None = None) -> dict[str, Tensor]:
    """The tensors of a group by name, from verified shards in a folder; None: the whole state.

    The tensors are mapped into memory (mmap(2), MAP_PRIVATE): all processes that map a file share
    its pages until they write to them. The files may be deleted meanwhile.

    Raises:
        DamagedCheckpointError: A shard is not what was written.
        OSError: A file cannot be mapped.
    """
    parts = (
        (each, safetensors.torch.load_file(folder / each.name)) for each in shards_with(ref, group)
    )
    return _assemble(parts, ref, group)


def _assemble(
    parts: Iterable[tuple[Shard, dict[str, Tensor]]], ref: CheckpointRef, group: str | None
) -> dict[str, Tensor]:
    """The state in its shards; tensors that are divided between shards are joined."""
    tensors: dict[str, Tensor] = {}
    pieces: dict[str, list[tuple[int, Tensor]]] = defaultdict(list)
    shapes: dict[str, list[int]] = {}
    try:
        for shard, found in parts:
            if len(found) != shard.tensors:
                raise ValueError(f"{shard.name} holds {len(found)} tensors, not {shard.tensors}")
            for name, tensor in found.items():
                if group is not None and group_of(name) != group:
                    continue
                piece = shard.pieces.get(name)
                if piece is None:
                    tensors[name] = tensor
                else:
                    pieces[name].append((piece.start, tensor))
                    shapes[name] = piece.shape
        tensors |= {name: split.join(pieces[name], shapes[name]) for name in pieces}
    except (ObjectNotFoundError, ChecksumMismatchError, ValueError, SafetensorError) as error:
        raise DamagedCheckpointError(f"{ref.uri} is damaged: {error}") from error
    if group is None and len(tensors) != ref.manifest.tensors:
        raise DamagedCheckpointError(f"{ref.uri} is damaged: tensors are missing")
    return tensors
