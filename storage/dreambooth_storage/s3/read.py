"""Reads one S3 object by ranges, in parallel, into memory or into a file (S3 GetObject)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from botocore.exceptions import ClientError

from dreambooth_storage.checksum import verify
from dreambooth_storage.errors import ChecksumMismatchError, StorageUnavailableError
from dreambooth_storage.files.write import unfinished
from dreambooth_storage.parallel import run_all
from dreambooth_storage.s3.client import S3Client
from dreambooth_storage.s3.errors import NotAnS3ServerError
from dreambooth_storage.s3.sinks import FileSink, MemorySink, Sink, fill
from dreambooth_storage.uri import Location

SHA256_KEY = "dreambooth-sha256"
"""Metadata of every object that the project writes: the sha256 of its content."""

_WHOLE_ATTEMPTS = 3
# The ETag of a multipart upload is a hash of hashes with a suffix, "...-12", and does not match.
_MD5 = re.compile('"?([0-9a-f]{32})"?')
T = TypeVar("T")
S = TypeVar("S", bound=Sink)


class _ChangedError(Exception):
    """The object was replaced between two of its ranges."""


@dataclass(frozen=True)
class _Version:
    """The object's version as of the first response, which came with its first `first` bytes."""

    size: int
    etag: str
    sha256: str | None
    first: int

    @property
    def md5(self) -> str | None:
        """The content's MD5: the ETag of an object that was uploaded in one request."""
        return match[1] if (match := _MD5.fullmatch(self.etag)) else None


class _Check:
    """Verifies content by the caller's sha256, else the metadata's, else an ETag that is an MD5."""

    def __init__(self, location: Location, sha256: str | None = None) -> None:
        self._uri = location.uri
        self._sha256 = sha256
        self._seen: set[str] = set()

    def __call__(self, version: _Version, content: Sink) -> None:
        """Raise `ChecksumMismatchError` when the content is damaged."""
        if expected := self._sha256 or version.sha256:
            verify(self._uri, expected, content.digest("sha256"))
        elif version.md5:
            self._check_md5(version.md5, content.digest("md5"))

    def _check_md5(self, expected: str, actual: str) -> None:
        # With server-side encryption, an ETag looks like an MD5 and is none. Content that arrives
        # twice the same is therefore accepted.
        if actual != expected and actual not in self._seen:
            self._seen.add(actual)
            raise ChecksumMismatchError(self._uri, "arrived damaged", "check the network")


class Reader:
    """Reads objects, in parts from one pool that all objects share. Raises `StorageError`."""

    def __init__(self, client: S3Client, parts: Executor) -> None:
        self._client = client
        self._parts = parts

    def exists(self, location: Location) -> bool:
        """Whether there is such an object.

        Raises:
            NoSuchBucketError: there is no such bucket.
        """

        # GetObject of one byte: the response to HeadObject has no body, so a missing key and a
        # missing bucket look the same.
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
            version, memory = self._fetch(location, MemorySink)
            check(version, memory)
            return memory.take()

        return self._whole(location, once)

    def read_start(self, location: Location, length: int) -> bytes:
        """The first `length` bytes, or all of a shorter object; not verified."""

        def request(client: Any) -> bytes:
            answer = _get_start(client, location, length)
            size = min(length, _version_of(answer).first)
            start = MemorySink(size)
            fill(start, answer["Body"], 0, size)
            return start.take()

        return self._client.call("read", location, request)

    def download(self, location: Location, path: Path, sha256: str | None, durable: bool) -> int:
        """Write the content to a file, which appears when it is complete and verified.

        Returns its size in bytes.

        Raises:
            ChecksumMismatchError: it arrived damaged three times.
            OSError: the file cannot be written.
        """
        check = _Check(location, sha256)

        def once() -> int:
            with unfinished(path) as temporary, temporary.open("w+b") as file:
                version, content = self._fetch(location, lambda size: FileSink(file, size))
                check(version, content)
                if durable:  # the content must be on disk before its name is
                    os.fsync(file.fileno())
                temporary.replace(path)
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
        """The content in a sink of its size; all ranges are of one version."""
        # The first part is fetched alone: its response has the size, which saves a HeadObject.
        version, sink = self._first(location, make)
        step = self._client.policy.part_size
        rest = range(version.first, version.size, step)
        run_all(
            self._parts,
            [partial(self._range, location, version, sink, start, step) for start in rest],
        )
        return version, sink

    def _first(self, location: Location, make: Callable[[int], S]) -> tuple[_Version, S]:
        # A retry gets a new sink, as the object may have been replaced by one of another size.
        def request(client: Any) -> tuple[_Version, S]:
            answer = _get_start(client, location, self._client.policy.part_size)
            version = _version_of(answer)
            sink = make(version.size)
            fill(sink, answer["Body"], 0, version.first)
            return version, sink

        return self._client.call("read", location, request)

    def _range(
        self, location: Location, version: _Version, sink: Sink, start: int, step: int
    ) -> None:
        stop = min(start + step, version.size)

        def request(client: Any) -> None:
            try:
                # Without If-Match, an object that is replaced meanwhile would come in two versions.
                answer = client.get_object(
                    **_name(location), Range=f"bytes={start}-{stop - 1}", IfMatch=version.etag
                )
            except ClientError as error:
                if _code(error) in ("PreconditionFailed", "412", "NoSuchKey", "InvalidRange"):
                    raise _ChangedError from None
                raise
            fill(sink, answer["Body"], start, stop - start)

        self._client.call("read", location, request)


def _get_start(client: Any, location: Location, length: int) -> Any:
    """The response to a GET of the first `length` bytes."""
    try:
        return _checked(client.get_object(**_name(location), Range=f"bytes=0-{length - 1}"))
    except ClientError as error:
        if _code(error) != "InvalidRange":
            raise
        return _checked(client.get_object(**_name(location)))  # an empty object has no ranges


def _version_of(answer: Any) -> _Version:
    length = int(answer["ContentLength"])
    # "bytes 0-99/12345"; a server that ignores ranges sends the whole object and no Content-Range.
    content_range = str(answer.get("ContentRange", ""))
    size = int(content_range.rpartition("/")[2]) if content_range else length
    return _Version(size, answer["ETag"], answer.get("Metadata", {}).get(SHA256_KEY), length)


def _checked(answer: Any) -> Any:
    """The response, if it is from an S3 server: a web page may have status 200 too."""
    if "ETag" not in answer:
        answer["Body"].close()
        raise NotAnS3ServerError
    return answer


def _name(location: Location) -> dict[str, str]:
    return {"Bucket": location.bucket, "Key": location.key}


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
