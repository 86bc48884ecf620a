"""Durable training states in object storage: sharded, verified, fenced."""

from dreambooth_trainer.checkpoint.background import BackgroundSaver
from dreambooth_trainer.checkpoint.fence import Fence
from dreambooth_trainer.checkpoint.listener import SaveListener
from dreambooth_trainer.checkpoint.manifest import FORMAT, CheckpointRef, Manifest, Shard
from dreambooth_trainer.checkpoint.store import CheckpointStore

__all__ = [
    "FORMAT",
    "BackgroundSaver",
    "CheckpointRef",
    "CheckpointStore",
    "Fence",
    "Manifest",
    "SaveListener",
    "Shard",
]
