"""The exit code and the description of an error."""

from dreambooth_api.contract.exit_codes import ExitCode
from dreambooth_storage import (
    AccessDeniedError,
    EmptyPrefixError,
    NoSuchBucketError,
    ObjectNotFoundError,
    StorageError,
    WrongEndpointError,
)
from dreambooth_trainer.process.errors import TrainerError

MODEL_FIELDS = (
    "spec.model.source",
    "spec.evaluation.preset",
    "spec.evaluation.encoders.image",
    "spec.evaluation.encoders.text",
)


def exit_code_of(error: Exception) -> int:
    """The exit code for an error; an error that a restart cannot fix has a terminal one."""
    if isinstance(error, TrainerError):
        return error.exit_code
    if isinstance(error, (AccessDeniedError, NoSuchBucketError, WrongEndpointError)):
        return ExitCode.STORAGE_DENIED
    # The field decides what is missing: the same error means a missing model or missing images.
    if isinstance(error, (ObjectNotFoundError, EmptyPrefixError)):
        return ExitCode.BAD_MODEL if error.field in MODEL_FIELDS else ExitCode.BAD_DATA
    return ExitCode.ERROR


def is_own(error: Exception) -> bool:
    """Whether this project raised the error, so that its message is a sentence for users."""
    return isinstance(error, (TrainerError, StorageError))


def describe(error: Exception) -> str:
    """The message of an error of this project; else its type and the first line of its message."""
    if is_own(error):
        return str(error)
    lines = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {lines[0]}"
