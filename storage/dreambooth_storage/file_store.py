"""`file://`: the same semantics as S3 on a file system.

Objects appear whole or not at all: they are written to a temporary file in the same folder, which
is then renamed or linked. Folders are no objects, as in S3: a deletion leaves an empty one unless
it is asked to remove it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
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
_NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What link(2) fails with on file systems without hard links."""
_NO_FOLDER_FLUSH = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)
"""What fsync(2) of a folder fails with on file systems that do not know it: FUSE, SMB."""


class FileStore:
    """A Backend on a file system."""

    def list(self, location: Location) -> Listing:
        """Every file below the folder, without those of unfinished writes; sizes in bytes."""
        root = location.prefix
        with _errors_of(location):
            return [
                _stored(path, root)
                for folder, _, names in os.walk(root, onerror=_raise_unless_missing)
                for path in (Path(folder, name) for name in names)
                # A link whose target is gone holds nothing, as does a socket or a pipe.
                if not path.name.endswith(_UNFINISHED) and path.is_file()
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
        # Without an expected digest there is nothing to compare with: files carry no metadata.
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
        with _errors_of(location), unfinished(Path(location.key)) as temporary:
            with temporary.open("wb") as file:
                file.write(data)
                _flush(file)
            if only_if_absent:
                _link(temporary, Path(location.key))
                _flush_folder(Path(location.key).parent)
            else:
                _rename(temporary, Path(location.key))
        return Written(location.uri, len(data), hashlib.sha256(data).hexdigest())

    def upload(self, path: Path, location: Location) -> Written:
        """Copy a file, flush it to disk, and put it in place.

        Raises:
            StorageError: either file cannot be accessed; it says which.
        """
        with _errors_of(location), unfinished(Path(location.key)) as temporary:
            size, sha256 = _copy(_blocks(path, errors_of_source(location, path)), temporary)
            _rename(temporary, Path(location.key))
        return Written(location.uri, size, sha256)

    def stream(self, path: Path, location: Location) -> Written:
        """Same as `upload`, which hashes the file while it copies it."""
        return self.upload(path, location)

    def download(self, location: Location, path: Path, sha256: str | None) -> int:
        """Copy the file to `path`; returns its size in bytes.

        Raises:
            ObjectNotFoundError: there is no such file.
            ChecksumMismatchError: its hexadecimal sha256 is not `sha256`.
        """
        with errors_of_target(location, path), unfinished(path) as temporary:
            size, actual = _copy(_blocks(Path(location.key), _errors_of(location)), temporary)
            if sha256:
                verify(location.uri, sha256, actual)
            temporary.replace(path)
        return size

    def delete(self, location: Location) -> None:
        """Remove the file; its folder stays."""
        with _errors_of(location):
            Path(location.key).unlink(missing_ok=True)

    def remove_empty_folders(self, locations: Iterable[Location]) -> None:
        """Remove the folders of files that were deleted, where nothing else is in them."""
        for folder in {Path(location.key).parent for location in locations}:
            with suppress(OSError):  # not empty, or of another owner: it stays
                folder.rmdir()

    def abort_unfinished(self, location: Location, selects: Callable[[str], bool]) -> None:
        """Remove the temporary files of killed writers."""
        root = Path(location.prefix)
        with _errors_of(location):
            # A list first: the walk must not see its own deletions.
            for path in list(root.rglob(f".*{_UNFINISHED}")):
                if selects(path.relative_to(root).as_posix()):
                    path.unlink(missing_ok=True)


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of `path`; a file that is left there is removed at the end."""
    _make_folder(path.parent)
    # In the same folder: rename(2) and link(2) work within one file system only.
    temporary = path.with_name(f".{secrets.token_hex(8)}{_UNFINISHED}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def errors_of_target(location: Location, path: Path) -> Iterator[None]:
    """Raise `StorageError` for an `OSError` of the file that an object is downloaded to."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            location.uri,
            f"cannot be downloaded to {path}: {_reason(error)}",
            "check the disk that it is on",
        ) from error


@contextmanager
def errors_of_source(location: Location, path: Path) -> Iterator[None]:
    """Raise `StorageError` for an `OSError` of the file that is uploaded to an object."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            location.uri,
            f"cannot be uploaded from {path}: {_reason(error)}",
            "check that file, and the disk that it is on",
        ) from error


def verify(uri: str, expected: str, actual: str) -> None:
    """Compare two hexadecimal sha256 digests.

    Raises:
        ChecksumMismatchError: they differ.
    """
    if expected.lower() != actual:
        raise ChecksumMismatchError(
            uri,
            f"is damaged: its sha256 is {actual} instead of {expected.lower()}",
            "write it again, or restore it from a copy",
        )


def _blocks(source: Path, errors: AbstractContextManager[None]) -> Iterator[bytes]:
    """The content of a file; `errors` sees those of reading it, and none of the caller."""
    with errors, source.open("rb") as reader:
        while block := reader.read(MIB):
            yield block


def _copy(blocks: Iterable[bytes], target: Path) -> tuple[int, str]:
    """(size in bytes, sha256) of what was copied."""
    digest, size = hashlib.sha256(), 0
    with target.open("wb") as writer:
        for block in blocks:
            digest.update(block)
            writer.write(block)
            size += len(block)
        _flush(writer)
    return size, digest.hexdigest()


def _rename(source: Path, target: Path) -> None:
    """Put a file in place of another, durably."""
    source.replace(target)
    _flush_folder(target.parent)


def _link(source: Path, target: Path) -> None:
    """Give a file its name unless another has it: the counterpart of If-None-Match.

    Raises:
        FileExistsError: Another has it.
    """
    try:
        # link(2) fails with EEXIST, where rename(2) would replace.
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        # exFAT, and many FUSE and SMB file systems. Others may see the file before it is complete.
        with target.open("xb") as copy, source.open("rb") as content:
            try:
                shutil.copyfileobj(content, copy)
                _flush(copy)
            except BaseException:
                target.unlink()  # a part of the file would keep the name for ever
                raise


def _flush(file: BinaryIO) -> None:
    # Before the rename: after a crash, the new name could otherwise point to an empty file.
    file.flush()
    os.fsync(file.fileno())


def _make_folder(folder: Path) -> None:
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in new:
        _flush_folder(each.parent)


def _flush_folder(folder: Path) -> None:
    """Make the names in a folder survive a crash of the host: fsync(2) of a file leaves them out.

    Raises:
        OSError: The disk failed; a file system that cannot flush folders is no error.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:  # a folder may be open to writers and closed to readers
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_FLUSH:
            raise
    finally:
        os.close(descriptor)


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
    # os.walk ignores errors by default. A missing folder is an empty prefix; others are failures.
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


@contextmanager
def _errors_of(location: Location) -> Iterator[None]:
    """Raise the file system's errors as the `StorageError` that S3 would cause."""
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
