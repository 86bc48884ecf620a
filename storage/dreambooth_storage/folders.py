"""Which file of a folder belongs to which object below a prefix, and the other way round."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from dreambooth_storage.errors import StorageError
from dreambooth_storage.interface import StoredObject

_MAX_NAME_BYTES = 255
"""Longest name of a file on Linux (NAME_MAX)."""


def files_below(source: Path) -> list[tuple[Path, str]]:
    """The files below a folder with their relative paths ("/" between parts), sorted.

    Hidden files, and files in hidden folders, are left out. Links whose target does not exist are
    not: they fail when they are read. A file in place of the folder is alone, with an empty
    relative path.
    """
    if source.is_file():
        return [(source, "")]
    files = sorted(path for path in source.rglob("*") if path.is_file() or not path.exists())
    relative = [path.relative_to(source) for path in files]
    return [
        (path, name.as_posix())
        for path, name in zip(files, relative, strict=True)
        if not any(part.startswith(".") for part in name.parts)
    ]


def path_below(folder: Path, item: StoredObject) -> Path:
    """The path that a listed object is downloaded to.

    Raises:
        StorageError: the path is not below `folder`, or is no valid file name.
    """
    # S3 allows any key, and others may write to the bucket: "a/../../b" and "a//tmp/b" would leave
    # the folder.
    path = PurePosixPath(item.relative)
    if path.is_absolute() or ".." in path.parts:
        raise StorageError(item.uri, "would be written outside of its folder", "rename the object")
    # Refused before anything is downloaded, rather than by open() halfway through a tree.
    too_long = any(len(os.fsencode(part)) > _MAX_NAME_BYTES for part in path.parts)
    if too_long or not item.relative.isprintable():
        raise StorageError(
            item.uri,
            "has a name that no file can have here"
            f" (over {_MAX_NAME_BYTES} bytes, or not printable)",
            "rename the object",
        )
    return folder / path
