"""The file system as a Backend.

Objects appear whole or not at all: they are written to a temporary file in the same folder, which
is then renamed or linked. Folders are no objects, as in S3: a deletion leaves an empty one unless
it is asked to remove it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from pathlib import Path

from dreambooth_storage.checksum import verify
from dreambooth_storage.files.errors import errors_of, errors_of_source, errors_of_target
from dreambooth_storage.files.write import UNFINISHED, flush, link, rename, unfinished, write_blocks
from dreambooth_storage.interface import MIB, Listing, StoredObject, Written
from dreambooth_storage.uri import Location

_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""What stat(2) of a listed name fails with if it was deleted, or is a link to nothing."""


class FileStore:
    """A Backend on a file system."""

    def list(self, location: Location) -> Listing:
        """Every file below the folder, without those of unfinished writes; sizes in bytes."""
        root = location.prefix
        with errors_of(location):
            found = (_stored(path, root) for path in _walk(root))
            return [item for item in found if item and not item.relative.endswith(UNFINISHED)]

    def broken_links(self, location: Location) -> Sequence[str]:
        """Relative paths of the symbolic links below the folder whose target does not exist."""
        with errors_of(location):
            return sorted(
                str(path.relative_to(location.prefix))
                for path in _walk(location.prefix)
                if path.is_symlink() and not path.exists()
            )

    def exists(self, location: Location) -> bool:
        """Whether there is a regular file; a folder is no object."""
        with errors_of(location):
            try:
                return stat.S_ISREG(Path(location.key).stat().st_mode)
            except (FileNotFoundError, NotADirectoryError):
                return False

    def read(self, location: Location, sha256: str | None) -> bytes:
        """The content of the file.

        Raises:
            ObjectNotFoundError: there is no such file, or it is a folder.
        """
        with errors_of(location):
            data = Path(location.key).read_bytes()
        # Without an expected digest there is nothing to compare with: files carry no metadata.
        if sha256:
            verify(location.uri, sha256, hashlib.sha256(data).hexdigest())
        return data

    def read_start(self, location: Location, length: int) -> bytes:
        """The first `length` bytes of the file, or all of a shorter one."""
        with errors_of(location), Path(location.key).open("rb") as file:
            return file.read(length)

    def write(self, location: Location, data: bytes, only_if_absent: bool) -> Written:
        """Write a new file, flush it to disk, and put it in place.

        Raises:
            AlreadyExistsError: `only_if_absent`, and there is a file already.
        """
        with errors_of(location), unfinished(Path(location.key)) as temporary:
            with temporary.open("wb") as file:
                file.write(data)
                flush(file)
            put_in_place = link if only_if_absent else rename
            put_in_place(temporary, Path(location.key))
        return Written(location.uri, len(data), hashlib.sha256(data).hexdigest())

    def upload(self, path: Path, location: Location) -> Written:
        """Copy a file, flush it to disk, and put it in place.

        Raises:
            StorageError: either file cannot be accessed; it says which.
        """
        with errors_of(location), unfinished(Path(location.key)) as temporary:
            size, sha256 = write_blocks(_blocks(path, errors_of_source(location, path)), temporary)
            rename(temporary, Path(location.key))
        return Written(location.uri, size, sha256)

    def stream(self, path: Path, location: Location) -> Written:
        """Same as `upload`, which hashes the file while it copies it."""
        return self.upload(path, location)

    def download(self, location: Location, path: Path, sha256: str | None, durable: bool) -> int:
        """Copy the file to `path`; returns its size in bytes.

        Raises:
            ObjectNotFoundError: there is no such file.
            ChecksumMismatchError: its hexadecimal sha256 is not `sha256`.
        """
        with errors_of_target(location, path), unfinished(path) as temporary:
            blocks = _blocks(Path(location.key), errors_of(location))
            size, actual = write_blocks(blocks, temporary, durable=durable)
            if sha256:
                verify(location.uri, sha256, actual)
            temporary.replace(path)
        return size

    def delete(self, location: Location) -> None:
        """Remove the file; its folder stays."""
        with errors_of(location):
            Path(location.key).unlink(missing_ok=True)

    def remove_empty_folders(self, locations: Iterable[Location]) -> None:
        """Remove the folders of files that were deleted, where nothing else is in them."""
        for folder in {Path(location.key).parent for location in locations}:
            with suppress(OSError):  # not empty, or of another owner: it stays
                folder.rmdir()

    def abort_unfinished(self, location: Location, selects: Callable[[str], bool]) -> None:
        """Remove the temporary files of killed writers."""
        with errors_of(location):
            for path in _walk(location.prefix):
                is_unfinished = path.name.startswith(".") and path.name.endswith(UNFINISHED)
                if is_unfinished and selects(str(path.relative_to(location.prefix))):
                    path.unlink(missing_ok=True)


def _blocks(source: Path, errors: AbstractContextManager[None]) -> Iterator[bytes]:
    """The content of a file; `errors` sees those of reading it, and none of the caller."""
    with errors, source.open("rb") as reader:
        while block := reader.read(MIB):
            yield block


def _walk(root: str) -> Iterator[Path]:
    """Everything below a folder but folders; nothing below one that does not exist."""
    for folder, _, names in os.walk(root, onerror=_raise_unless_missing):
        yield from (Path(folder, name) for name in names)


def _stored(path: Path, root: str) -> StoredObject | None:
    """The entry of a regular file in a listing; None for a socket, a pipe or a broken link."""
    try:
        status = path.stat()
    except OSError as error:
        # Others may delete files meanwhile, such as older checkpoints.
        if error.errno not in _NO_FILE:
            raise
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
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
