"""The types of storage's interface: settings, results, observers and backends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from dreambooth_storage.uri import Location

MIB = 1024 * 1024


AddressingStyle = Literal["auto", "path", "virtual"]


class StorageSpec(Protocol):
    """What `StorageSettings.of` reads of a job's `spec.storage`."""

    @property
    def endpoint_url(self) -> str | None:
        """URL of the server; None: AWS."""

    @property
    def region(self) -> str | None:
        """Region of the buckets."""

    @property
    def addressing_style(self) -> AddressingStyle:
        """Whether the bucket is in the path or in the host name."""

    @property
    def anonymous_buckets(self) -> Sequence[str]:
        """Names of the buckets that need no credentials."""


@dataclass(frozen=True)
class StorageSettings:
    """How `s3://` URIs are reached: the job's endpoint, region and addressing (spec.storage).

    Requests to `anonymous_buckets` are not signed. Credentials are never part of it, as it is
    logged and sent to other processes.
    """

    endpoint_url: str | None = None
    region: str | None = None
    addressing_style: AddressingStyle = "auto"
    anonymous_buckets: frozenset[str] = frozenset()

    @classmethod
    def of(cls, spec: StorageSpec) -> StorageSettings:
        """The settings of a job."""
        buckets = frozenset(spec.anonymous_buckets)
        return cls(spec.endpoint_url, spec.region, spec.addressing_style, buckets)


@dataclass(frozen=True)
class AccessKey:
    """Credentials of an S3 server, given where the process's own environment must not decide."""

    id: str
    secret: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> AccessKey | None:
        """The keys in the AWS_* variables of `environment`; None unless both are set."""
        key = environment.get("AWS_ACCESS_KEY_ID")
        secret = environment.get("AWS_SECRET_ACCESS_KEY")
        if not key or not secret:
            return None
        return cls(key, secret, environment.get("AWS_SESSION_TOKEN"))


@dataclass(frozen=True)
class TransferPolicy:
    """Retries, time-outs in seconds, part sizes in bytes, and parallelism.

    A request is sent at most `attempts` times; before attempt n + 1 it waits for a random time
    between 0 and min(`max_delay`, `base_delay` * 2^(n - 1)) seconds: "full jitter".
    An object of more than `part_size` bytes moves in parts. At most `objects_at_once` objects are
    prefetched, and `parts_at_once` parts of one or more objects move at the same time.
    """

    # The seven waits add up to 23 s at most; longer outages are left to the restart of the pod.
    attempts: int = 8
    base_delay: float = 0.2
    max_delay: float = 10.0
    # Above S3's minimum of 5 MiB for all parts but the last.
    part_size: int = 16 * MIB
    objects_at_once: int = 8
    parts_at_once: int = 8
    connect_timeout: float = 10.0
    read_timeout: float = 60.0


@dataclass(frozen=True)
class StoredObject:
    """One object of a listing; `relative` is its path below the listed prefix, `size` in bytes.

    `version` changes with the content: S3's ETag, or a file's time of modification.
    """

    uri: str
    relative: str
    size: int
    modified: datetime
    version: str


@dataclass(frozen=True)
class Written:
    """An object that is durably stored; `size` in bytes, `sha256` in hexadecimal."""

    uri: str
    size: int
    sha256: str


Listing: TypeAlias = list[StoredObject]
"""Objects below a prefix. The classes here have methods called `list`, which hide the type."""


class TransferObserver(Protocol):
    """Receives storage's events. Its methods are called from any thread and must not block."""

    def progressed(self) -> None:
        """Storage has answered a request: it is slow at worst, but not stuck."""

    def transferred(self, operation: str, size: int, seconds: float) -> None:
        """An operation has succeeded.

        Args:
            operation: list, exists, read, write or delete.
            size: bytes moved, 0 where none were.
            seconds: time that it took, retries included.
        """

    def failed(self, operation: str, error_code: str) -> None:
        """A request failed, whether it is retried or not.

        Args:
            operation: list, exists, read, write or delete.
            error_code: the server's, such as SlowDown or an HTTP status; without an answer, one of
                `s3.errors`.
        """


class NullObserver:
    """A TransferObserver that ignores everything."""

    def progressed(self) -> None:
        """Ignore it."""

    def transferred(self, operation: str, size: int, seconds: float) -> None:
        """Ignore it."""

    def failed(self, operation: str, error_code: str) -> None:
        """Ignore it."""


class Backend(Protocol):
    """One kind of storage. Every method raises `StorageError`, without the job's field."""

    def list(self, location: Location) -> Listing:
        """Every object below the prefix, in any order; sizes in bytes."""

    def exists(self, location: Location) -> bool:
        """Whether there is such an object; raises `StorageError` when that is unknown."""

    def read(self, location: Location, sha256: str | None) -> bytes:
        """The object's content.

        Raises:
            ChecksumMismatchError: its hexadecimal sha256 is not `sha256`.
        """

    def read_start(self, location: Location, length: int) -> bytes:
        """The first `length` bytes of the object, or all of a shorter one."""

    def write(self, location: Location, data: bytes, only_if_absent: bool) -> Written:
        """Store the content, all or nothing.

        Raises:
            AlreadyExistsError: `only_if_absent`, and there is an object already.
        """

    def upload(self, path: Path, location: Location) -> Written:
        """Store a file's content, all or nothing.

        Raises:
            StorageError: the file cannot be read, or the object not written; it says which.
        """

    def stream(self, path: Path, location: Location) -> Written:
        """Store a file's content, all or nothing, reading it once.

        Raises:
            StorageError: the file cannot be read, or the object not written; it says which.
        """

    def download(self, location: Location, path: Path, sha256: str | None, durable: bool) -> int:
        """Write the content to `path`, all or nothing, and return its size in bytes.

        With `durable` also when the host crashes.

        Raises:
            LocalFileError: the file cannot be written.
            ChecksumMismatchError: its hexadecimal sha256 is not `sha256`.
        """

    def delete(self, location: Location) -> None:
        """Remove the object; a missing one is no error, as in S3's DeleteObject."""

    def abort_unfinished(self, location: Location, selects: Callable[[str], bool]) -> None:
        """Free the space of unfinished writes below the prefix.

        Args:
            location: a prefix.
            selects: called with each relative path; False: the write is left alone.
        """
