"""Durable training states in object storage: sharded, verified, fenced."""

from dreambooth_trainer.checkpoint.agree import CheckpointError
from dreambooth_trainer.checkpoint.fence import Fence
from dreambooth_trainer.checkpoint.manifest import FORMAT, Manifest, Shard
from dreambooth_trainer.checkpoint.store import CheckpointRef, CheckpointStore

__all__ = [
    "FORMAT",
    "CheckpointError",
    "CheckpointRef",
    "CheckpointStore",
    "Fence",
    "Manifest",
    "Shard",
]
