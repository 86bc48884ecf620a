"""Writes files that appear whole or not at all, and survive a crash of the host."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

UNFINISHED = ".unfinished"
"""Suffix of temporary files."""
_NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What link(2) fails with on file systems without hard links."""
_NO_FOLDER_FLUSH = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)
"""What fsync(2) of a folder fails with on file systems that do not know it: FUSE, SMB."""


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of `path`; a file that is left there is removed at the end."""
    _make_folder(path.parent)
    # In the same folder: rename(2) and link(2) work within one file system only.
    temporary = path.with_name(f".{secrets.token_hex(8)}{UNFINISHED}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def write_blocks(blocks: Iterable[bytes], target: Path, *, durable: bool = True) -> tuple[int, str]:
    """Write a file, flushed to disk if `durable`; returns its size in bytes and its sha256."""
    digest, size = hashlib.sha256(), 0
    with target.open("wb") as writer:
        for block in blocks:
            digest.update(block)
            writer.write(block)
            size += len(block)
        if durable:
            flush(writer)
    return size, digest.hexdigest()


def rename(source: Path, target: Path) -> None:
    """Put a file in place of another, durably."""
    source.replace(target)
    _flush_folder(target.parent)


def link(source: Path, target: Path) -> None:
    """Give a file its name, durably, unless another has it: the counterpart of If-None-Match.

    Raises:
        FileExistsError: another has it.
    """
    try:
        # link(2) fails with EEXIST, where rename(2) would replace.
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        # exFAT, and many FUSE and SMB file systems. Others may see the file before it is complete.
        with target.open("xb") as file, source.open("rb") as content:
            try:
                shutil.copyfileobj(content, file)
                flush(file)
            except BaseException:
                target.unlink()  # a part of the file would keep the name for ever
                raise
    _flush_folder(target.parent)


def flush(file: BinaryIO) -> None:
    """Make the content of a file survive a crash of the host."""
    # Before a rename: the new name could otherwise point to an empty file.
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
        OSError: the disk failed; a file system that cannot flush folders is no error.
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
