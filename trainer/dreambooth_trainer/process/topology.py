"""This process's rank, job and folders, from its environment."""

import os
from dataclasses import dataclass
from pathlib import Path

from dreambooth_api.contract import environment
from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.parsing.load import InvalidJobError, load
from dreambooth_trainer.process.errors import BadConfigError

DEFAULT_CACHE_FOLDER = "/tmp/dreambooth-cache"


@dataclass(frozen=True)
class Topology:
    """This process among the ranks of one attempt."""

    rank: int = 0
    """Over all pods."""
    local_rank: int = 0
    """In its pod."""
    world_size: int = 1
    ranks_per_node: int = 1
    attempt: int = 0
    """Number of the attempt, from 0."""

    @property
    def nodes(self) -> int:
        """Pods of the attempt."""
        return self.world_size // self.ranks_per_node

    @classmethod
    def from_environment(cls) -> "Topology":
        """Read torchrun's variables and `DREAMBOOTH_ATTEMPT`; without them, a single rank.

        Raises:
            ValueError: A variable is no number.
        """
        return cls(
            rank=int(os.environ.get(environment.RANK, "0")),
            local_rank=int(os.environ.get(environment.LOCAL_RANK, "0")),
            world_size=int(os.environ.get(environment.WORLD_SIZE, "1")),
            ranks_per_node=int(os.environ.get(environment.LOCAL_WORLD_SIZE, "1")),
            attempt=int(os.environ.get(environment.ATTEMPT, "0")),
        )


def load_job(path: Path, *, check_rules: bool = True) -> DreamBoothJob:
    """Read and validate the job file.

    Args:
        path: Of the file.
        check_rules: False for the job of a run that has begun, whatever rules have come since.

    Raises:
        BadConfigError: It lists every problem with its field.
    """
    try:
        return load(path, check_rules=check_rules)
    except (InvalidJobError, OSError) as error:
        raise BadConfigError(str(error)) from error


def cache_folder() -> Path:
    """Node-local folder for downloads."""
    return Path(os.environ.get(environment.CACHE_DIR, DEFAULT_CACHE_FOLDER))


def models_folder() -> Path | None:
    """Folder in memory (a tmpfs) for models; None: they go to the cache folder."""
    folder = os.environ.get(environment.MODELS_DIR)
    return Path(folder) if folder else None
