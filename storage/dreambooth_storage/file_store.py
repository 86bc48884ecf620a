"""`file://`: the same semantics as S3 on a file system.

Objects appear whole or not at all: they are written beside their place and renamed or linked into
it. Folders that deleting objects leaves empty stay; like S3, storage knows of no folders.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from dreambooth_storage.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    ChecksumMismatchError,
    ObjectNotFoundError,
    StorageError,
    StorageFullError,
)
from dreambooth_storage.interface import MIB, Listing, StoredObject, Written
from dreambooth_storage.uri import Location

_UNFINISHED = ".unfinished"


class FileStore:
    """A Backend on a file system."""

    def list(self, location: Location) -> Listing:
        """Every file below the folder, without those of unfinished writes."""
        root = location.prefix
        with _errors_of(location):
            return [
                _stored(Path(folder, name), root)
                for folder, _, names in os.walk(root, onerror=_raise_unless_missing)
                for name in names
                if not name.endswith(_UNFINISHED)
            ]

    def exists(self, location: Location) -> bool:
        """Whether there is a regular file; a folder is no object."""
        with _errors_of(location):
            try:
                return stat.S_ISREG(Path(location.key).stat().st_mode)
            except (FileNotFoundError, NotADirectoryError):
                return False

    def read(self, location: Location, sha256: str | None) -> bytes:
        """The content of the file.

        Raises:
            ObjectNotFoundError: there is no such file, or it is a folder.
        """
        with _errors_of(location):
            data = Path(location.key).read_bytes()
        if sha256:
            verify(location.uri, sha256, hashlib.sha256(data).hexdigest())
        return data

    def read_start(self, location: Location, length: int) -> bytes:
        """The first `length` bytes of the file, or all of a shorter one."""
        with _errors_of(location), Path(location.key).open("rb") as file:
            return file.read(length)

    def write(self, location: Location, data: bytes, only_if_absent: bool) -> Written:
        """Write a new file, flush it to disk, and put it in place.

        Raises:
            AlreadyExistsError: `only_if_absent`, and there is a file already.
        """
        with _errors_of(location), unfinished(Path(location.key)) as beside:
            with beside.open("wb") as file:
                file.write(data)
                _flush(file)
            if only_if_absent:
                os.link(beside, location.key)  # unlike rename, refuses to replace
            else:
                beside.replace(location.key)
        return Written(location.uri, len(data), hashlib.sha256(data).hexdigest())

    def upload(self, path: Path, location: Location) -> Written:
        """Copy a file, flush it to disk, and put it in place."""
        with _errors_of(location), unfinished(Path(location.key)) as beside:
            size, sha256 = _copy(path, beside)
            beside.replace(location.key)
        return Written(location.uri, size, sha256)

    def stream(self, path: Path, location: Location) -> Written:
        """As `upload`, which reads the file once in any case."""
        return self.upload(path, location)

    def download(self, location: Location, path: Path, sha256: str | None) -> int:
        """Copy the file to `path`."""
        with _errors_of(location), unfinished(path) as beside:
            size, found = _copy(Path(location.key), beside)
            if sha256:
                verify(location.uri, sha256, found)
            beside.replace(path)
        return size

    def delete(self, location: Location) -> None:
        """Remove the file; its folder stays."""
        with _errors_of(location):
            Path(location.key).unlink(missing_ok=True)

    def abort_unfinished(self, location: Location, selects: Callable[[str], bool]) -> None:
        """Remove what killed writers have left beside the objects."""
        root = Path(location.prefix)
        with _errors_of(location):
            for path in list(root.rglob(f".*{_UNFINISHED}")):
                if selects(path.relative_to(root).as_posix()):
                    path.unlink(missing_ok=True)


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """A new path beside `path` to write to; what is left there at the end is removed.

    Beside it, as a rename replaces a file at once only within one file system.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{secrets.token_hex(8)}{_UNFINISHED}")
    try:
        yield beside
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def errors_of_target(location: Location, path: Path) -> Iterator[None]:
    """Raise StorageError for what keeps an object from being written to `path`."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            location.uri,
            f"cannot be downloaded to {path}: {_reason(error)}",
            "check the disk that it is on",
        ) from error


def verify(uri: str, expected: str, found: str) -> None:
    """Compare two hexadecimal sha256 digests.

    Raises:
        ChecksumMismatchError: they differ.
    """
    if expected.lower() != found:
        raise ChecksumMismatchError(
            uri,
            f"is damaged: its sha256 is {found} instead of {expected.lower()}",
            "write it again, or restore it from a copy",
        )


def _copy(source: Path, target: Path) -> tuple[int, str]:
    """(size in bytes, sha256) of what was copied."""
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as reader, target.open("wb") as writer:
        while block := reader.read(MIB):
            digest.update(block)
            writer.write(block)
            size += len(block)
        _flush(writer)
    return size, digest.hexdigest()


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _stored(path: Path, root: str) -> StoredObject:
    status = path.stat()
    return StoredObject(
        uri=f"file://{path}",
        relative=str(path)[len(root) :].lstrip("/"),
        size=status.st_size,
        modified=datetime.fromtimestamp(status.st_mtime, UTC),
        version=str(status.st_mtime_ns),
    )


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


@contextmanager
def _errors_of(location: Location) -> Iterator[None]:
    """Raise the file system's errors as those that S3 would give."""
    try:
        yield
    except OSError as error:
        raise _translate(location.uri, error) from error


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
