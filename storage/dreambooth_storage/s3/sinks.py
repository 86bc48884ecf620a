"""Where the body of a response goes: into memory, or into a file."""

from __future__ import annotations

import hashlib
import io
import os
from typing import Any, Protocol

from dreambooth_storage.interface import MIB
from dreambooth_storage.s3.errors import TruncatedBodyError


class Sink(Protocol):
    """The destination of content. Ranges do not overlap, and are filled by several threads."""

    def fill(self, body: Any, start: int, length: int) -> int:
        """Store up to `length` bytes of a body at offset `start`; returns the number read."""

    def digest(self, kind: str) -> str:
        """Hexadecimal sha256 or md5 of the content."""


class MemorySink:
    """Content in memory, in one piece."""

    def __init__(self, size: int) -> None:
        # BytesIO shares its buffer with the `bytes` that getvalue() returns, so an object is never
        # held twice; a bytearray would have to be copied.
        self._buffer = io.BytesIO(bytes(size))

    def fill(self, body: Any, start: int, length: int) -> int:
        """See `Sink.fill`."""
        with self._buffer.getbuffer() as view:
            return _read_into(body, view[start : start + length])

    def digest(self, kind: str) -> str:
        """See `Sink.digest`."""
        with self._buffer.getbuffer() as view:
            return hashlib.new(kind, view, usedforsecurity=False).hexdigest()

    def take(self) -> bytes:
        """The content."""
        return self._buffer.getvalue()


class FileSink:
    """Content in an open file."""

    def __init__(self, file: io.BufferedRandom, size: int) -> None:
        self._file = file
        file.truncate(size)

    def fill(self, body: Any, start: int, length: int) -> int:
        """See `Sink.fill`."""
        block, done = memoryview(bytearray(min(length, MIB))), 0
        while done < length and (count := body.readinto(block[: length - done])):
            os.pwrite(self._file.fileno(), block[:count], start + done)
            done += count
        return done

    def digest(self, kind: str) -> str:
        """See `Sink.digest`."""
        self._file.seek(0)
        return hashlib.file_digest(self._file, kind).hexdigest()


def fill(sink: Sink, body: Any, start: int, length: int) -> None:
    """Store `length` bytes of a body at offset `start`, and close the body.

    Raises:
        TruncatedBodyError: the body is shorter.
    """
    try:
        count = sink.fill(body, start, length)
        if count < length:
            raise TruncatedBodyError(f"{count} of {length} bytes")
    finally:
        # A body that was not read to its end would keep its connection from the pool.
        body.close()


def _read_into(body: Any, view: memoryview) -> int:
    done = 0  # in blocks of 1 MiB, as urllib3 first reads each into a buffer of its own
    while done < len(view) and (count := body.readinto(view[done : done + MIB])):
        done += count
    return done
