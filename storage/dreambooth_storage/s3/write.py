"""Writing one S3 object: in one request, or in parts in parallel."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from dreambooth_storage.errors import (
    AlreadyExistsError,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
)
from dreambooth_storage.interface import MIB, Written
from dreambooth_storage.parallel import run_all
from dreambooth_storage.s3.client import S3Client
from dreambooth_storage.s3.errors import NotAnS3ServerError
from dreambooth_storage.s3.read import SHA256_KEY
from dreambooth_storage.uri import Location

_MAX_PARTS = 10_000  # S3's limit
_WRITE_KEY = "dreambooth-write"
_CONTRADICTIONS = 3
"""Attempts of a conditional write that the server refuses, though there is no object."""
Content = Callable[[int, int], bytes]
"""content(start, stop): bytes start to stop of what is written."""


class Writer:
    """Writes objects; the parts of all of them share one pool."""

    def __init__(self, client: S3Client, parts: Executor) -> None:
        self._client = client
        self._parts = parts

    def write(self, location: Location, data: bytes, only_if_absent: bool) -> Written:
        """Store bytes.

        Raises:
            AlreadyExistsError: `only_if_absent`, and there is an object already.
        """
        written = Written(location.uri, len(data), hashlib.sha256(data).hexdigest())
        condition = {"IfNoneMatch": "*"} if only_if_absent else {}
        described = {SHA256_KEY: written.sha256}
        size = written.size
        self._store(location, lambda start, stop: data[start:stop], size, described, condition)
        return written

    def upload(self, path: Path, location: Location) -> Written:
        """Store a file, which is read twice.

        Its sha256 travels in the object's metadata, which must be known before the first part.

        Raises:
            OSError: the file cannot be read, or became shorter meanwhile.
        """
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = os.fstat(file.fileno()).st_size
            content = partial(_read_exactly, file.fileno())
            self._store(location, content, size, {SHA256_KEY: digest}, {})
        return Written(location.uri, size, digest)

    def stream(self, path: Path, location: Location) -> Written:
        """Store a file that is hashed while its parts move.

        The object does not carry its sha256: it is in the returned value alone.

        Raises:
            OSError: the file cannot be read, or became shorter meanwhile.
        """
        with path.open("rb") as file, ThreadPoolExecutor(1, "s3-sha256") as aside:
            digest = aside.submit(hashlib.file_digest, file, "sha256")
            size = os.fstat(file.fileno()).st_size
            self._store(location, partial(_read_exactly, file.fileno()), size, {}, {})
            return Written(location.uri, size, digest.result().hexdigest())

    def _store(
        self,
        location: Location,
        content: Content,
        size: int,
        described: dict[str, str],
        condition: dict[str, str],
    ) -> None:
        # An answer that got lost makes a repeated conditional write fail on its own first try.
        # The nonce tells this write from any other, whatever the content.
        nonce = secrets.token_hex(16)
        options = {
            "Bucket": location.bucket,
            "Key": location.key,
            "Metadata": {**described, _WRITE_KEY: nonce},
        }
        store = self._put if size <= self._client.policy.part_size else self._put_parts
        for _ in range(_CONTRADICTIONS):
            try:
                return store(location, content, size, options, condition)
            except (AlreadyExistsError, ObjectNotFoundError) as error:
                found = self._metadata(location)
                if found is not None and found.get(_WRITE_KEY) == nonce:
                    return None
                if found is not None or isinstance(error, ObjectNotFoundError):
                    raise
        raise StorageUnavailableError(
            location.uri,
            "exists already according to writes, and does not exist according to reads",
            "check the server's log",
        )

    def _put(
        self,
        location: Location,
        content: Content,
        size: int,
        options: dict[str, Any],
        condition: dict[str, str],
    ) -> None:
        body = content(0, size)
        md5 = _md5(body)

        def request(client: Any) -> None:
            answer = client.put_object(**options, **condition, Body=body, ContentMD5=md5)
            if "ETag" not in answer:
                raise NotAnS3ServerError

        self._client.call("write", location, request)

    def _put_parts(
        self,
        location: Location,
        content: Content,
        size: int,
        options: dict[str, Any],
        condition: dict[str, str],
    ) -> None:
        step = part_size(size, self._client.policy.part_size)
        upload = {**_name(location), "UploadId": self._begin(location, options)}
        try:
            parts = run_all(
                self._parts,
                [
                    partial(self._part, location, content, upload, number, start, size, step)
                    for number, start in enumerate(range(0, size, step), start=1)
                ],
            )
            self._client.call(
                "write",
                location,
                lambda client: client.complete_multipart_upload(
                    **upload, **condition, MultipartUpload={"Parts": parts}
                ),
            )
        except BaseException:
            self.abort(location, upload)
            raise

    def _begin(self, location: Location, options: dict[str, Any]) -> str:
        def request(client: Any) -> str:
            answer = client.create_multipart_upload(**options)
            if "UploadId" not in answer:
                raise NotAnS3ServerError
            return str(answer["UploadId"])

        return self._client.call("write", location, request)

    def _part(
        self,
        location: Location,
        content: Content,
        upload: dict[str, str],
        number: int,
        start: int,
        size: int,
        step: int,
    ) -> dict[str, Any]:
        body = content(start, min(start + step, size))
        md5 = _md5(body)
        answer = self._client.call(
            "write",
            location,
            lambda client: client.upload_part(
                **upload, PartNumber=number, Body=body, ContentMD5=md5
            ),
        )
        return {"PartNumber": number, "ETag": answer["ETag"]}

    def abort(self, location: Location, upload: dict[str, str]) -> None:
        """Free the parts of an upload.

        Best effort: the caller is about to raise a better error, or cleans up after the dead. A
        lifecycle rule of the bucket frees what stays.
        """
        with contextlib.suppress(StorageError):
            self._client.call(
                "write", location, lambda client: client.abort_multipart_upload(**upload)
            )

    def _metadata(self, location: Location) -> dict[str, str] | None:
        """What was written with the object; None when there is no object."""
        try:
            answer = self._client.call(
                "write", location, lambda client: client.head_object(**_name(location))
            )
        except ObjectNotFoundError:
            return None
        metadata: dict[str, str] = answer.get("Metadata", {})
        return metadata


def part_size(size: int, smallest: int) -> int:
    """Bytes per part, whole MiB beyond `smallest`, such that S3's limit of 10,000 parts holds."""
    if size <= smallest * _MAX_PARTS:
        return smallest
    return -(-size // (_MAX_PARTS * MIB)) * MIB


def _md5(body: bytes) -> str:
    """Content-MD5 of a body: every server refuses one that was damaged on its way."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


def _read_exactly(descriptor: int, start: int, stop: int) -> bytes:
    """Bytes of a file.

    Raises:
        OSError: the file became shorter meanwhile, which must not become a short object.
    """
    data = os.pread(descriptor, stop - start, start)
    if len(data) != stop - start:
        raise OSError("the file changed while it was uploaded")
    return data


def _name(location: Location) -> dict[str, str]:
    return {"Bucket": location.bucket, "Key": location.key}
