"""Translates the errors of a file system to StorageErrors."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dreambooth_storage.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    LocalFileError,
    ObjectNotFoundError,
    StorageError,
    StorageFullError,
)
from dreambooth_storage.uri import Location


@contextmanager
def errors_of(location: Location) -> Iterator[None]:
    """Raise the file system's errors as the `StorageError` that S3 would cause."""
    try:
        yield
    except OSError as error:
        raise _translate(location.uri, error) from error


@contextmanager
def errors_of_target(location: Location, path: Path) -> Iterator[None]:
    """Raise `LocalFileError` for an `OSError` of the file that an object is downloaded to."""
    try:
        yield
    except OSError as error:
        raise LocalFileError(
            location.uri,
            f"cannot be downloaded to {path}: {_reason(error)}",
            "check the disk that it is on",
        ) from error


@contextmanager
def errors_of_source(location: Location, path: Path) -> Iterator[None]:
    """Raise `LocalFileError` for an `OSError` of the file that is uploaded to an object."""
    try:
        yield
    except OSError as error:
        raise LocalFileError(
            location.uri,
            f"cannot be uploaded from {path}: {_reason(error)}",
            "check that file, and the disk that it is on",
        ) from error


def _translate(uri: str, error: OSError) -> StorageError:
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        kind = "is a folder, not a file" if error.errno == errno.EISDIR else "does not exist"
        return ObjectNotFoundError(uri, kind, "correct the path")
    if isinstance(error, FileExistsError):
        return AlreadyExistsError(uri, "exists already", "remove it, or choose another place")
    if isinstance(error, PermissionError):
        return AccessDeniedError(
            uri, "may not be accessed", "allow it to the user that runs the job (chown, chmod)"
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFullError(
            uri, f"cannot be written: {_reason(error)}", "make room on its file system"
        )
    return StorageError(uri, f"cannot be used: {_reason(error)}", "check the file system")


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)
