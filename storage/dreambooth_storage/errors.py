"""What can go wrong in storage, in sentences that name the URI, the job's field and what to do."""

from __future__ import annotations

from typing import ClassVar


class StorageError(Exception):
    """A storage operation that failed.

    Attributes:
        uri: what the operation was about.
        problem: what is wrong; it continues the sentence that begins with the URI.
        advice: what the user can do.
        field: the job's field that the URI came from, "" when it came from none.
    """

    code: ClassVar[str] = "StorageFailure"
    """A name for metrics and programs, which stays the same whatever the class is called."""

    def __init__(self, uri: str, problem: str, advice: str, field: str = "") -> None:
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
    return name if name.isprintable() else ascii(name)[1:-1]


class ObjectNotFoundError(StorageError):
    """There is no such object."""

    code = "ObjectNotFound"


class NoSuchBucketError(StorageError):
    """There is no such bucket."""

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
    """There is no room left; a later attempt may find some."""

    code = "StorageFull"


class AlreadyExistsError(StorageError):
    """A write that must not replace anything found an object in its place."""

    code = "AlreadyExists"


class ChecksumMismatchError(StorageError):
    """The content is not what was written."""

    code = "ChecksumMismatch"


class StorageUnavailableError(StorageError):
    """Storage failed to answer in every attempt; a later one may succeed."""

    code = "StorageUnavailable"
