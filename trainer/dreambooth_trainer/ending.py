"""How a rank ends: its exit code, and its last words."""

import os
import sys
from contextlib import suppress
from pathlib import Path

from dreambooth_trainer.errors import BadData, BadModel, Denied, TrainerError
from dreambooth_trainer.storage import (
    AccessDenied,
    EmptyPrefix,
    NoSuchBucket,
    NotFound,
    StorageError,
    WrongEndpoint,
)


def exit_code_of(error: Exception) -> int:
    """The exit code of an error: what cannot get better by itself is not retried."""
    if isinstance(error, TrainerError):
        return error.exit_code
    if isinstance(error, (AccessDenied, NoSuchBucket, WrongEndpoint)):
        return Denied.exit_code
    if isinstance(error, (NotFound, EmptyPrefix)):
        return (BadModel if "spec.model" in str(error) else BadData).exit_code
    return TrainerError.exit_code


def sentence(error: Exception) -> str:
    """What went wrong and what to do, in the error's words where it is one of this project's."""
    if isinstance(error, (TrainerError, StorageError)):
        return f"{type(error).__name__}: {error}"
    reason = (str(error).strip().splitlines() or ["no message"])[0]
    return f"{type(error).__name__}: {reason}; the job is retried from its last checkpoint"


def say_last_words(code: int, words: str) -> None:
    """Print them as the last line, and leave them for Kubernetes as the termination message.

    The first rank of a pod to fail is the one that is heard: its peers only lose a connection.
    """
    sys.stderr.write(words + "\n")
    path = Path(os.environ.get("DREAMBOOTH_TERMINATION_LOG", "/dev/termination-log"))
    if code == 0 or not path.parent.is_dir():
        return
    with suppress(OSError):
        if not path.exists() or not path.read_text().strip():
            path.write_text(words[:4000])
