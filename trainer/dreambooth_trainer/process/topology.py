"""What this process was told: the job, and its place among the ranks."""

import os
from dataclasses import dataclass
from pathlib import Path

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.parsing.load import InvalidJobError, load
from dreambooth_trainer.process.errors import BadConfigError


@dataclass(frozen=True)
class Topology:
    """This process among the ranks of one attempt, as torchrun and the operator's pods describe
    it.
    """

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    ranks_per_node: int = 1
    attempt: int = 0

    @property
    def nodes(self) -> int:
        """Pods of the attempt."""
        return self.world_size // self.ranks_per_node

    @classmethod
    def from_environment(cls) -> "Topology":
        """Read RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE and DREAMBOOTH_ATTEMPT; alone
        without them.
        """
        return cls(
            rank=int(os.environ.get("RANK", "0")),
            local_rank=int(os.environ.get("LOCAL_RANK", "0")),
            world_size=int(os.environ.get("WORLD_SIZE", "1")),
            ranks_per_node=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
            attempt=int(os.environ.get("DREAMBOOTH_ATTEMPT", "0")),
        )


def load_job(path: Path) -> DreamBoothJob:
    """Read and validate the job file; `BadConfigError` lists every problem with its field."""
    try:
        return load(path)
    except (InvalidJobError, OSError) as error:
        raise BadConfigError(str(error)) from error


def local_batch(job: DreamBoothJob, world_size: int) -> int:
    """Subject images per rank and forward pass.

    `BadConfigError` when the ranks times `accumulation` do not divide `globalBatch`.
    """
    training = job.spec.training
    if training.global_batch is None:
        return training.per_device_batch or 1
    parts = world_size * training.accumulation
    if training.global_batch % parts:
        raise BadConfigError(
            f"spec.training.globalBatch: {training.global_batch} is not divisible by {parts}"
            f" ({world_size} ranks x accumulation {training.accumulation});"
            f" use a multiple of {parts}, or change runtime.nodes"
        )
    return training.global_batch // parts


def cache_folder() -> Path:
    """Node-local folder for downloads (DREAMBOOTH_CACHE_DIR)."""
    return Path(os.environ.get("DREAMBOOTH_CACHE_DIR", "/tmp/dreambooth-cache"))


def models_folder() -> Path | None:
    """Folder in memory for models that nobody keeps (DREAMBOOTH_MODELS_DIR); None: no such."""
    found = os.environ.get("DREAMBOOTH_MODELS_DIR")
    return Path(found) if found else None
