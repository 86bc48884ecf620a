"""How the images of an optimizer step are divided over ranks and forward passes."""

from dataclasses import dataclass

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_trainer.process.errors import BadConfigError


@dataclass(frozen=True)
class BatchSplit:
    """One rank's part of an optimizer step, the same on every rank."""

    local: int
    """Subject images per rank and forward pass."""
    accumulation: int
    """Forward passes per optimizer step."""
    world_size: int

    @property
    def total(self) -> int:
        """Subject images per optimizer step over all ranks."""
        return self.local * self.accumulation * self.world_size


def split_batch(job: DreamBoothJob, world_size: int, begun_with: int | None = None) -> BatchSplit:
    """Divide the batch of a job over its ranks.

    Args:
        job: The job.
        world_size: Ranks.
        begun_with: Subject images per step of the run that is resumed. Without `globalBatch`, they
            follow the number of ranks; a run keeps those that it began with, by another
            `accumulation`, as a loss curve is of one batch size.

    Raises:
        BadConfigError: The ranks do not divide the batch.
    """
    training = job.spec.training
    if training.global_batch is not None:
        parts = world_size * training.accumulation
        if training.global_batch % parts:
            raise BadConfigError(
                f"spec.training.globalBatch: {training.global_batch} is not divisible by {parts}"
                f" ({world_size} ranks x accumulation {training.accumulation});"
                f" use a multiple of {parts}, or change runtime.nodes"
            )
        return BatchSplit(training.global_batch // parts, training.accumulation, world_size)
    asked = BatchSplit(training.per_device_batch or 1, training.accumulation, world_size)
    if begun_with is None or begun_with == asked.total:
        return asked
    share, rest = divmod(begun_with, world_size)
    if rest:
        raise BadConfigError(
            f"spec.runtime.nodes: the run began with {begun_with} subject images per step, as"
            f" spec.training.globalBatch is not set, and {world_size} ranks cannot divide them;"
            f" use a number of ranks that divides {begun_with}, or start a new job"
        )
    local = next(size for size in range(min(asked.local, share), 0, -1) if share % size == 0)
    return BatchSplit(local, share // local, world_size)
