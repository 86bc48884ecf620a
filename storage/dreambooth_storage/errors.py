"""What can go wrong in storage, in sentences that name the URI, the job's field and what to do."""

from __future__ import annotations


class StorageError(Exception):
    """A storage operation that failed.

    `uri` is what it was about, `problem` continues the sentence that begins with it, `advice` says
    what to do, and `field` is the job's field that the URI came from, "" when it came from none.
    """

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
    """A name as it may stand in a message: one that could break the line, or the terminal, is
    escaped.
    """
    return name if name.isprintable() else ascii(name)[1:-1]


class ObjectNotFoundError(StorageError):
    """There is no such object."""


class NoSuchBucketError(StorageError):
    """There is no such bucket."""


class AccessDeniedError(StorageError):
    """Credentials are missing, wrong, or do not allow the operation."""


class WrongEndpointError(StorageError):
    """No S3 server that can serve the bucket answers at the endpoint."""


class EmptyPrefixError(StorageError):
    """There is nothing below a prefix that must hold something."""


class StorageFullError(StorageError):
    """There is no room left; a later attempt may find some."""


class AlreadyExistsError(StorageError):
    """A write that must not replace anything found an object in its place."""


class ChecksumMismatchError(StorageError):
    """The content is not what was written."""


class StorageUnavailableError(StorageError):
    """Storage did not answer properly, however often it was asked; a later attempt may succeed."""
