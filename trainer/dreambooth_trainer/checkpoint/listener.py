"""The protocol between saves and what reports them."""

from typing import Protocol

from dreambooth_trainer.checkpoint.manifest import CheckpointRef


class SaveListener(Protocol):
    """Is notified of the saves of an attempt."""

    def checkpoint_committed(self) -> None:
        """A checkpoint is committed: store what belongs to it.

        Called on rank 0 alone, in a background thread.

        Raises:
            Exception: The save has failed. It is retried, this call included.
        """

    def checkpoint_saved(self, reference: CheckpointRef, seconds: float) -> None:
        """A save is complete on all ranks, `seconds` after its state was copied.

        Called on every rank, between two steps.
        """

    def save_failed(self, error: Exception) -> None:
        """A save failed on some rank. Called on every rank, between two steps."""

    def training_waited(self, seconds: float) -> None:
        """Training waited for a save to become durable, as the next one is due.

        Called on every rank, between two steps.
        """
