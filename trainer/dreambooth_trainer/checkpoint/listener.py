"""The protocol between saves and what reports them."""

from typing import Protocol

from dreambooth_trainer.checkpoint.manifest import CheckpointRef


class SaveListener(Protocol):
    """Learns what becomes of the saves of an attempt."""

    def checkpoint_committed(self) -> None:
        """A checkpoint exists: make durable what belongs to it.

        Called on rank 0 alone, in a background thread. An error fails the save, which is then tried
        again, this call included.
        """

    def checkpoint_saved(self, reference: CheckpointRef, seconds: float) -> None:
        """A save is complete on all ranks, `seconds` after its state was copied.

        Called on every rank, between two steps.
        """

    def save_failed(self, error: Exception) -> None:
        """A save failed on some rank. Called on every rank, between two steps."""
