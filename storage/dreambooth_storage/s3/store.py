"""`s3://`: AWS S3 and the servers that speak its protocol (SeaweedFS, MinIO, Ceph)."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from dreambooth_storage.errors import StorageUnavailableError
from dreambooth_storage.files.errors import errors_of_source, errors_of_target
from dreambooth_storage.interface import (
    AccessKey,
    Listing,
    StorageSettings,
    StoredObject,
    TransferObserver,
    TransferPolicy,
    Written,
)
from dreambooth_storage.s3.client import S3Client
from dreambooth_storage.s3.errors import NotAnS3ServerError
from dreambooth_storage.s3.read import Reader
from dreambooth_storage.s3.write import Writer
from dreambooth_storage.uri import Location


class S3Store:
    """A Backend on S3. Every method raises `StorageError`, without the job's field."""

    def __init__(
        self,
        settings: StorageSettings,
        policy: TransferPolicy,
        observer: TransferObserver,
        credentials: AccessKey | None = None,
    ) -> None:
        self._client = S3Client(settings, policy, observer, credentials)
        self._pool = ThreadPoolExecutor(policy.parts_at_once, thread_name_prefix="s3-part")
        self._reader = Reader(self._client, self._pool)
        self._writer = Writer(self._client, self._pool)

    def list(self, location: Location) -> Listing:
        """All pages of ListObjectsV2, without folder markers.

        Raises:
            StorageUnavailableError: the server repeats a page.
        """
        objects: Listing = []
        more: dict[str, str] = {}
        # None is in the set: a truncated page without a token would repeat the first page.
        tokens: set[str | None] = {None}
        while True:
            page = self._client.call("list", location, partial(_page, location, more))
            objects += [
                _stored(location, entry)
                for entry in page.get("Contents", ())
                if _is_object(location, entry["Key"])
            ]
            if not page.get("IsTruncated"):
                return objects
            token = page.get("NextContinuationToken")
            if token in tokens:
                raise StorageUnavailableError(
                    location.uri,
                    "has a listing that never ends: the server repeats a page",
                    "check the server's log",
                )
            tokens.add(token)
            more = {"ContinuationToken": token}

    def exists(self, location: Location) -> bool:
        """See `Reader.exists`."""
        return self._reader.exists(location)

    def read(self, location: Location, sha256: str | None) -> bytes:
        """See `Reader.read`."""
        return self._reader.read(location, sha256)

    def read_start(self, location: Location, length: int) -> bytes:
        """See `Reader.read_start`."""
        return self._reader.read_start(location, length)

    def write(self, location: Location, data: bytes, only_if_absent: bool) -> Written:
        """See `Writer.write`."""
        return self._writer.write(location, data, only_if_absent)

    def upload(self, path: Path, location: Location) -> Written:
        """See `Writer.upload`; an `OSError` of the file becomes a `LocalFileError`."""
        with errors_of_source(location, path):
            return self._writer.upload(path, location)

    def stream(self, path: Path, location: Location) -> Written:
        """See `Writer.stream`; an `OSError` of the file becomes a `LocalFileError`."""
        with errors_of_source(location, path):
            return self._writer.stream(path, location)

    def download(self, location: Location, path: Path, sha256: str | None, durable: bool) -> int:
        """See `Reader.download`; an `OSError` of the file becomes a `LocalFileError`."""
        with errors_of_target(location, path):
            return self._reader.download(location, path, sha256, durable)

    def delete(self, location: Location) -> None:
        """Delete one object; a missing one is no error (S3 DeleteObject)."""
        # One by one: servers disagree about the checksum that DeleteObjects requires.
        self._client.call(
            "delete",
            location,
            lambda client: client.delete_object(Bucket=location.bucket, Key=location.key),
        )

    def abort_unfinished(self, location: Location, selects: Callable[[str], bool]) -> None:
        """Abort unfinished multipart uploads (S3 ListMultipartUploads, AbortMultipartUpload).

        Raises:
            StorageError: the server does not list them; that an upload cannot be aborted is
                ignored.
        """
        more: dict[str, str] = {}
        while True:
            page = self._client.call("list", location, partial(_uploads, location, more))
            for upload in page.get("Uploads", ()):
                if selects(upload["Key"][len(location.prefix) :]):
                    name = {"Bucket": location.bucket, "Key": upload["Key"]}
                    self._writer.abort(location, {**name, "UploadId": upload["UploadId"]})
            if not page.get("IsTruncated"):
                return
            more = {
                "KeyMarker": page["NextKeyMarker"],
                "UploadIdMarker": page["NextUploadIdMarker"],
            }

    def close(self) -> None:
        """Wait for running requests, and close the connections."""
        self._pool.shutdown()
        self._client.close()


def _page(location: Location, more: dict[str, str], client: Any) -> Any:
    answer = client.list_objects_v2(Bucket=location.bucket, Prefix=location.prefix, **more)
    # Any well-formed XML, such as a web page, parses as a listing without entries.
    if "Name" not in answer:
        raise NotAnS3ServerError
    return answer


def _uploads(location: Location, more: dict[str, str], client: Any) -> Any:
    return client.list_multipart_uploads(Bucket=location.bucket, Prefix=location.prefix, **more)


def _is_object(location: Location, key: str) -> bool:
    """Whether a key is an object: web consoles create markers for folders, which end in "/"."""
    return key.startswith(location.prefix) and not key.endswith("/")


def _stored(location: Location, entry: Any) -> StoredObject:
    key = entry["Key"]
    return StoredObject(
        uri=f"s3://{location.bucket}/{key}",
        relative=key[len(location.prefix) :],
        size=entry["Size"],
        modified=entry["LastModified"],
        version=entry.get("ETag", "").strip('"') or entry["LastModified"].isoformat(),
    )
