"""Reading one S3 object by ranges, in parallel, into memory or into a file."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from botocore.exceptions import ClientError

from dreambooth_storage.errors import ChecksumMismatchError, StorageUnavailableError
from dreambooth_storage.file_store import unfinished, verify
from dreambooth_storage.interface import MIB
from dreambooth_storage.parallel import run_all
from dreambooth_storage.s3.client import S3Client
from dreambooth_storage.s3.errors import NotAnS3ServerError, TruncatedBodyError
from dreambooth_storage.uri import Location

SHA256_KEY = "dreambooth-sha256"
"""Metadata of every object that the project writes: the sha256 of its content."""

_WHOLE_ATTEMPTS = 3
_MD5 = re.compile('"?([0-9a-f]{32})"?')
T = TypeVar("T")
S = TypeVar("S", bound="_Sink")


class _ChangedError(Exception):
    """The object was replaced between two of its ranges."""


class _Sink(Protocol):
    """Where content goes. Ranges do not overlap, and come from several threads."""

    def fill(self, body: Any, start: int, length: int) -> int:
        """Store up to `length` bytes of a body at offset `start`; returns how many there were."""

    def digest(self, kind: str) -> str:
        """Hexadecimal sha256 or md5 of the content."""


class _Memory:
    """Content in memory, in one piece: `take` hands out the very buffer that was filled."""

    def __init__(self, size: int) -> None:
        self._buffer = io.BytesIO(bytes(size))

    def fill(self, body: Any, start: int, length: int) -> int:
        with self._buffer.getbuffer() as view:
            return _read_into(body, view[start : start + length])

    def digest(self, kind: str) -> str:
        with self._buffer.getbuffer() as view:
            return hashlib.new(kind, view, usedforsecurity=False).hexdigest()

    def take(self) -> bytes:
        return self._buffer.getvalue()


class _File:
    """Content in an open file."""

    def __init__(self, file: io.BufferedRandom, size: int) -> None:
        self._file = file
        file.truncate(size)

    def fill(self, body: Any, start: int, length: int) -> int:
        block, done = memoryview(bytearray(min(length, MIB))), 0
        while done < length and (count := body.readinto(block[: length - done])):
            os.pwrite(self._file.fileno(), block[:count], start + done)
            done += count
        return done

    def digest(self, kind: str) -> str:
        self._file.seek(0)
        return hashlib.file_digest(self._file, kind).hexdigest()


@dataclass(frozen=True)
class _Version:
    """What the first answer says of the object; `first` is how many bytes came with it."""

    size: int
    etag: str
    sha256: str | None
    first: int

    @property
    def md5(self) -> str | None:
        """What most servers take for the ETag of what was uploaded in one piece."""
        return found[1] if (found := _MD5.fullmatch(self.etag)) else None


class _Check:
    """Whether content is what was written, by the best that is known of it."""

    def __init__(self, location: Location, sha256: str | None = None) -> None:
        self._uri = location.uri
        self._sha256 = sha256
        self._seen: set[str] = set()

    def __call__(self, version: _Version, content: _Sink) -> None:
        """Raises ChecksumMismatchError."""
        if expected := self._sha256 or version.sha256:
            verify(self._uri, expected, content.digest("sha256"))
        elif version.md5:
            self._check_md5(version.md5, content.digest("md5"))

    def _check_md5(self, expected: str, found: str) -> None:
        # Where a server's ETag is no md5, content that comes twice the same is believed.
        if found != expected and found not in self._seen:
            self._seen.add(found)
            raise ChecksumMismatchError(self._uri, "arrived damaged", "check the network")


class Reader:
    """Reads objects; the parts of all of them share one pool."""

    def __init__(self, client: S3Client, parts: Executor) -> None:
        self._client = client
        self._parts = parts

    def exists(self, location: Location) -> bool:
        """Whether there is such an object.

        By a GET: the answer to a HEAD has no body that tells a missing key from a missing bucket.
        """

        def request(client: Any) -> bool:
            try:
                _checked(client.get_object(**_name(location), Range="bytes=0-0"))["Body"].read()
            except ClientError as error:
                if _code(error) not in ("NoSuchKey", "InvalidRange"):
                    raise
                return _code(error) == "InvalidRange"  # an empty object has no first byte
            return True

        return self._client.call("exists", location, request)

    def read(self, location: Location, sha256: str | None) -> bytes:
        """The whole content, verified: by its sha256, where that is known.

        Raises:
            ChecksumMismatchError: it arrived damaged three times.
            StorageUnavailableError: it was replaced during each of three reads.
        """
        check = _Check(location, sha256)

        def once() -> bytes:
            version, memory = self._fetch(location, _Memory)
            check(version, memory)
            return memory.take()

        return self._whole(location, once)

    def read_start(self, location: Location, length: int) -> bytes:
        """The first `length` bytes, or all of a shorter object; not verified."""

        def request(client: Any) -> bytes:
            answer = _get_start(client, location, length)
            size = min(length, _version_of(answer).first)
            start = _Memory(size)
            _fill(start, answer["Body"], 0, size)
            return start.take()

        return self._client.call("read", location, request)

    def download(self, location: Location, path: Path, sha256: str | None) -> int:
        """Content into a file that appears when it is complete and verified.

        Returns its size in bytes.

        Raises:
            ChecksumMismatchError: it arrived damaged three times.
            OSError: the file cannot be written.
        """
        check = _Check(location, sha256)

        def once() -> int:
            with unfinished(path) as beside, beside.open("w+b") as file:
                version, content = self._fetch(location, lambda size: _File(file, size))
                check(version, content)
                os.fsync(file.fileno())
                beside.replace(path)
            return version.size

        return self._whole(location, once)

    def _whole(self, location: Location, once: Callable[[], T]) -> T:
        """`once`, repeated when the object changed meanwhile or arrived damaged."""
        for attempt in range(1, _WHOLE_ATTEMPTS + 1):
            try:
                return once()
            except ChecksumMismatchError:
                self._client.failed("read", ChecksumMismatchError.code)
                if attempt == _WHOLE_ATTEMPTS:
                    raise
            except _ChangedError:
                self._client.failed("read", "ObjectChanged")
        raise StorageUnavailableError(
            location.uri, "changes while it is read", "stop what writes to it, then try again"
        )

    def _fetch(self, location: Location, make: Callable[[int], S]) -> tuple[_Version, S]:
        """The content in a sink made for its size; all ranges are of one version."""
        version, sink = self._first(location, make)
        step = self._client.policy.part_size
        rest = range(version.first, version.size, step)
        run_all(
            self._parts,
            [partial(self._range, location, version, sink, start, step) for start in rest],
        )
        return version, sink

    def _first(self, location: Location, make: Callable[[int], S]) -> tuple[_Version, S]:
        def request(client: Any) -> tuple[_Version, S]:
            answer = _get_start(client, location, self._client.policy.part_size)
            version = _version_of(answer)
            sink = make(version.size)
            _fill(sink, answer["Body"], 0, version.first)
            return version, sink

        return self._client.call("read", location, request)

    def _range(
        self, location: Location, version: _Version, sink: _Sink, start: int, step: int
    ) -> None:
        stop = min(start + step, version.size)

        def request(client: Any) -> None:
            try:
                answer = client.get_object(
                    **_name(location), Range=f"bytes={start}-{stop - 1}", IfMatch=version.etag
                )
            except ClientError as error:
                if _code(error) in ("PreconditionFailed", "412", "NoSuchKey", "InvalidRange"):
                    raise _ChangedError from None
                raise
            _fill(sink, answer["Body"], start, stop - start)

        self._client.call("read", location, request)


def _get_start(client: Any, location: Location, length: int) -> Any:
    """The answer to a GET of the first `length` bytes."""
    try:
        return _checked(client.get_object(**_name(location), Range=f"bytes=0-{length - 1}"))
    except ClientError as error:
        if _code(error) != "InvalidRange":
            raise
        return _checked(client.get_object(**_name(location)))  # an empty object has no ranges


def _version_of(answer: Any) -> _Version:
    length = int(answer["ContentLength"])
    content_range = str(answer.get("ContentRange", ""))  # bytes 0-99/12345
    size = int(content_range.rpartition("/")[2]) if content_range else length
    return _Version(size, answer["ETag"], answer.get("Metadata", {}).get(SHA256_KEY), length)


def _fill(sink: _Sink, body: Any, start: int, length: int) -> None:
    try:
        count = sink.fill(body, start, length)
        if count < length:
            raise TruncatedBodyError(f"{count} of {length} bytes")
    finally:
        body.close()


def _read_into(body: Any, view: memoryview) -> int:
    done = 0  # in blocks: urllib3 fills a buffer of its own first
    while done < len(view) and (count := body.readinto(view[done : done + MIB])):
        done += count
    return done


def _checked(answer: Any) -> Any:
    """The answer, once it is certain that an S3 server gave it: web pages have status 200 too."""
    if "ETag" not in answer:
        answer["Body"].close()
        raise NotAnS3ServerError
    return answer


def _name(location: Location) -> dict[str, str]:
    return {"Bucket": location.bucket, "Key": location.key}


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
