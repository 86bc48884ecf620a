"""Durable training states in object storage: sharded, verified, fenced."""

from dreambooth_trainer.checkpoint.agreement import CheckpointError
from dreambooth_trainer.checkpoint.fence import Fence
from dreambooth_trainer.checkpoint.manifest import FORMAT, CheckpointRef, Manifest, Shard
from dreambooth_trainer.checkpoint.saves import SaveListener, Saves
from dreambooth_trainer.checkpoint.store import CheckpointStore

__all__ = [
    "FORMAT",
    "CheckpointError",
    "CheckpointRef",
    "CheckpointStore",
    "Fence",
    "Manifest",
    "SaveListener",
    "Saves",
    "Shard",
]
