"""Writes one S3 object: in one request, or in parallel parts (S3 PutObject, UploadPart)."""

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
"""Attempts of a conditional write that the server refuses although there is no object."""
Content = Callable[[int, int], bytes]
"""content(start, stop): bytes start to stop of the object."""


class Writer:
    """Writes objects, in parts from one pool that all objects share. Raises `StorageError`."""

    def __init__(self, client: S3Client, parts: Executor) -> None:
        self._client = client
        self._parts = parts

    def write(self, location: Location, data: bytes, only_if_absent: bool) -> Written:
        """Store bytes (If-None-Match of PutObject and CompleteMultipartUpload).

        Raises:
            AlreadyExistsError: `only_if_absent`, and there is an object already.
        """
        written = Written(location.uri, len(data), hashlib.sha256(data).hexdigest())
        condition = {"IfNoneMatch": "*"} if only_if_absent else {}
        metadata = {SHA256_KEY: written.sha256}
        size = written.size
        self._store(location, lambda start, stop: data[start:stop], size, metadata, condition)
        return written

    def upload(self, path: Path, location: Location) -> Written:
        """Store a file with its sha256 in the object's metadata.

        The file is read twice, as CreateMultipartUpload takes the metadata before the first part.

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
        # hashlib releases the GIL, so the hash is computed beside the parts' requests.
        with path.open("rb") as file, ThreadPoolExecutor(1, "s3-sha256") as hasher:
            digest = hasher.submit(hashlib.file_digest, file, "sha256")
            size = os.fstat(file.fileno()).st_size
            self._store(location, partial(_read_exactly, file.fileno()), size, {}, {})
            return Written(location.uri, size, digest.result().hexdigest())

    def _store(
        self,
        location: Location,
        content: Content,
        size: int,
        metadata: dict[str, str],
        condition: dict[str, str],
    ) -> None:
        # When the response to a conditional write is lost, the retry fails because of the object
        # that the first try wrote. The nonce identifies this write, whatever its content.
        nonce = secrets.token_hex(16)
        options = {
            "Bucket": location.bucket,
            "Key": location.key,
            "Metadata": {**metadata, _WRITE_KEY: nonce},
        }
        store = self._put if size <= self._client.policy.part_size else self._put_parts
        for _ in range(_CONTRADICTIONS):
            try:
                return store(location, content, size, options, condition)
            except (AlreadyExistsError, ObjectNotFoundError) as error:
                # NoSuchUpload, an ObjectNotFoundError, is also the response when an upload that is
                # complete is completed again.
                stored = self._metadata(location)
                if stored is not None and stored.get(_WRITE_KEY) == nonce:
                    return None
                if stored is not None or isinstance(error, ObjectNotFoundError):
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
        # Both outside of the request, which may be repeated.
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
        except BaseException:  # KeyboardInterrupt too: parts take space until they are aborted
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
        """Free the parts of an upload; a `StorageError` is ignored.

        The caller raises a better error, or cleans up after a killed writer. A lifecycle rule of
        the bucket can remove what is left.
        """
        with contextlib.suppress(StorageError):
            self._client.call(
                "write", location, lambda client: client.abort_multipart_upload(**upload)
            )

    def _metadata(self, location: Location) -> dict[str, str] | None:
        """The object's metadata (S3 HeadObject); None when there is no object."""
        try:
            answer = self._client.call(
                "write", location, lambda client: client.head_object(**_name(location))
            )
        except ObjectNotFoundError:
            return None
        metadata: dict[str, str] = answer.get("Metadata", {})
        return metadata


def part_size(size: int, smallest: int) -> int:
    """Bytes per part: `smallest`, or the whole MiB that keep to S3's limit of 10,000 parts."""
    if size <= smallest * _MAX_PARTS:
        return smallest
    return -(-size // (_MAX_PARTS * MIB)) * MIB


def _md5(body: bytes) -> str:
    """Content-MD5 of a body, by which servers refuse one that was damaged in transit."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


def _read_exactly(descriptor: int, start: int, stop: int) -> bytes:
    """Bytes of a file.

    Raises:
        OSError: the file became shorter meanwhile, which must not become a short object.
    """
    # pread has no shared offset, so several threads can read parts of one descriptor.
    data = os.pread(descriptor, stop - start, start)
    if len(data) != stop - start:
        raise OSError("the file changed while it was uploaded")
    return data


def _name(location: Location) -> dict[str, str]:
    return {"Bucket": location.bucket, "Key": location.key}
