"""What can go wrong in storage, in sentences that name the URI, the job's field and what to do."""

from __future__ import annotations

from typing import ClassVar


class StorageError(Exception):
    """A storage operation that failed.

    Args:
        uri: the object or prefix of the operation.
        problem: what is wrong; it continues the sentence that begins with the URI.
        advice: what the user can do.
        field: the job's field that the URI came from, "" when it came from none.
    """

    code: ClassVar[str] = "StorageFailure"
    """A label value for metrics. It stays the same when the class is renamed."""

    def __init__(self, uri: str, problem: str, advice: str, field: str = "") -> None:
        # All arguments go to Exception: pickling calls the class with `args`, and errors travel
        # between ranks and from the upload process.
        super().__init__(uri, problem, advice, field)
        self.uri = uri
        self.problem = problem
        self.advice = advice
        self.field = field

    def __str__(self) -> str:
        where = f"{self.field}: " if self.field else ""
        return f"{where}{printable(self.uri)} {self.problem}; {self.advice}"


def printable(name: str) -> str:
    """A name for a message: line breaks and control characters of a terminal are escaped."""
    # Object keys are chosen by whoever writes to the bucket; they must not forge log lines.
    return name if name.isprintable() else ascii(name)[1:-1]


class ObjectNotFoundError(StorageError):
    """There is no such object (S3's NoSuchKey; ENOENT)."""

    code = "ObjectNotFound"


class NoSuchBucketError(StorageError):
    """There is no such bucket (S3's NoSuchBucket), or no bucket can have the name."""

    code = "NoSuchBucket"


class AccessDeniedError(StorageError):
    """Credentials are missing, wrong, or do not allow the operation."""

    code = "AccessDenied"


class WrongEndpointError(StorageError):
    """No S3 server that can serve the bucket answers at the endpoint."""

    code = "WrongEndpoint"


class EmptyPrefixError(StorageError):
    """There is nothing below a prefix that must hold something."""

    code = "EmptyPrefix"


class StorageFullError(StorageError):
    """There is no room left (HTTP 507; ENOSPC, EDQUOT); a later attempt may succeed."""

    code = "StorageFull"


class LocalFileError(StorageError):
    """The file on this machine that an object is downloaded to, or uploaded from, failed."""

    code = "LocalFile"


class AlreadyExistsError(StorageError):
    """A conditional write met an existing object (S3's PreconditionFailed; EEXIST)."""

    code = "AlreadyExists"


class ChecksumMismatchError(StorageError):
    """The content does not have the sha256 or MD5 that it was written with."""

    code = "ChecksumMismatch"


class StorageUnavailableError(StorageError):
    """Every one of `TransferPolicy.attempts` requests failed; a later one may succeed."""

    code = "StorageUnavailable"
