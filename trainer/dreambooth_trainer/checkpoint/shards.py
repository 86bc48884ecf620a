"""A state as safetensors files: their entries in the manifest, and reading them back."""

from collections import defaultdict

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from dreambooth_storage import ChecksumMismatchError, ObjectNotFoundError, Storage, Written, join
from dreambooth_trainer.checkpoint import split
from dreambooth_trainer.checkpoint.layout import Layout
from dreambooth_trainer.checkpoint.manifest import DamagedCheckpointError, Manifest, Shard


def shard_entry(layout: Layout, written: Written) -> Shard:
    """The entry of a stored shard in its manifest."""
    return Shard(
        name=layout.name,
        size=written.size,
        sha256=written.sha256,
        tensors=len(layout.slices),
        pieces=dict(layout.pieces),
    )


def read_state(storage: Storage, folder_uri: str, manifest: Manifest) -> dict[str, Tensor]:
    """The whole state by name, on the CPU.

    Raises:
        DamagedCheckpointError: A shard is missing, or is not what was written.
    """
    shards = {join(folder_uri, shard.name): shard for shard in manifest.shards}
    tensors: dict[str, Tensor] = {}
    pieces: dict[str, list[tuple[int, Tensor]]] = defaultdict(list)
    shapes: dict[str, list[int]] = {}
    try:
        expected = {uri: shard.sha256 for uri, shard in shards.items()}
        for uri, data in storage.read_many(list(shards), sha256=expected, field="spec.output"):
            for name, tensor in _open(uri, data, shards[uri]).items():
                piece = shards[uri].pieces.get(name)
                if piece is None:
                    tensors[name] = tensor
                else:
                    pieces[name].append((piece.start, tensor))
                    shapes[name] = piece.shape
        tensors |= {name: split.join(pieces[name], shapes[name]) for name in pieces}
    except (ObjectNotFoundError, ChecksumMismatchError, ValueError, SafetensorError) as error:
        raise DamagedCheckpointError(f"{folder_uri} is damaged: {error}") from error
    if len(tensors) != manifest.tensors:
        raise DamagedCheckpointError(f"{folder_uri} is damaged: tensors are missing")
    return tensors


def _open(uri: str, data: bytes, shard: Shard) -> dict[str, Tensor]:
    """The tensors of a shard, whose sha256 storage has verified."""
    if len(data) != shard.size:
        raise DamagedCheckpointError(f"{uri} is {len(data)} bytes long instead of {shard.size}")
    tensors: dict[str, Tensor] = safetensors.torch.load(data)
    if len(tensors) != shard.tensors:
        raise DamagedCheckpointError(
            f"{uri} holds {len(tensors)} tensors instead of {shard.tensors}"
        )
    return tensors
