"""How a rank ends: its exit code, and its last words."""

import sys

from dreambooth_storage import (
    AccessDeniedError,
    EmptyPrefixError,
    NoSuchBucketError,
    ObjectNotFoundError,
    StorageError,
    WrongEndpointError,
)
from dreambooth_trainer.process.errors import (
    BadDataError,
    BadModelError,
    StorageDeniedError,
    TrainerError,
)
from dreambooth_trainer.process.termination_message import leave

MODELS = ("spec.model.source", "spec.evaluation.model")


def exit_code_of(error: Exception) -> int:
    """The exit code of an error: what cannot get better by itself is not retried."""
    if isinstance(error, TrainerError):
        return error.exit_code
    if isinstance(error, (AccessDeniedError, NoSuchBucketError, WrongEndpointError)):
        return StorageDeniedError.exit_code
    if isinstance(error, (ObjectNotFoundError, EmptyPrefixError)):
        return (BadModelError if error.field in MODELS else BadDataError).exit_code
    return TrainerError.exit_code


def sentence(error: Exception) -> str:
    """What went wrong and what to do, in the error's words where it is one of this project's."""
    if isinstance(error, (TrainerError, StorageError)):
        return f"{type(error).__name__}: {error}"
    reason = (str(error).strip().splitlines() or ["no message"])[0]
    return f"{type(error).__name__}: {reason}; the job is retried from its last checkpoint"


def say_last_words(code: int, rank: int, words: str) -> None:
    """Print them as the last line. Those of a failure are the termination message too, and rank 0's
    of a success: the operator reads there what nobody may have asked for in time.
    """
    told = f"rank {rank}: {words}"
    sys.stderr.write(told + "\n")
    if code or rank == 0:
        leave(told)
