"""The entry point to storage: any URI, any thread, bounded parallelism, errors with a field."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType

from dreambooth_storage.backends import Backends
from dreambooth_storage.errors import EmptyPrefixError, StorageError
from dreambooth_storage.folders import files_below, path_below
from dreambooth_storage.interface import (
    AccessKey,
    Listing,
    NullObserver,
    StorageSettings,
    TransferObserver,
    TransferPolicy,
    Written,
)
from dreambooth_storage.parallel import prefetch, run_all
from dreambooth_storage.uri import join

_WRITE_FIELD = "spec.output"


class Storage:
    """Objects at `s3://` and `file://` URIs, with the same semantics; thread-safe.

    An object appears whole or not at all. `field` is the job's field that a URI came from, and is
    named by every error. All methods raise `StorageError`.
    """

    def __init__(
        self,
        settings: StorageSettings,
        observer: TransferObserver | None = None,
        policy: TransferPolicy | None = None,
        *,
        credentials: AccessKey | None = None,
    ) -> None:
        policy = policy or TransferPolicy()
        self.settings = settings
        self._backends = Backends(settings, policy, observer or NullObserver(), credentials)
        self._ahead = policy.objects_at_once
        # Not the pool of the parts: objects wait for their parts, and in one pool they could fill
        # all threads and deadlock.
        self._pool = ThreadPoolExecutor(policy.objects_at_once, thread_name_prefix="storage")

    def list(self, prefix_uri: str, *, field: str = "") -> Listing:
        """Every object below the prefix, taken as a folder, sorted by key; may be empty.

        Raises:
            NoSuchBucketError: there is no such bucket.
        """
        with self._backends.operation("list", prefix_uri, field) as (store, location, _):
            objects = store.list(location)
        # By bytes, as S3 orders keys, and not by code points; file names need not be UTF-8.
        return sorted(objects, key=lambda each: each.relative.encode(errors="surrogateescape"))

    def list_nonempty(self, prefix_uri: str, *, field: str = "") -> Listing:
        """As `list`, for a prefix that must hold something.

        Raises:
            EmptyPrefixError: there is nothing below the prefix.
        """
        objects = self.list(prefix_uri, field=field)
        if not objects:
            advice = f"correct {field or 'the URI'}, or put the files there"
            raise EmptyPrefixError(prefix_uri, "holds no files", advice, field)
        return objects

    def broken_links(self, prefix_uri: str) -> Sequence[str]:
        """Relative paths of symbolic links whose target does not exist: no listing has them."""
        return self._backends.broken_links(prefix_uri)

    def exists(self, uri: str, *, field: str = "") -> bool:
        """Whether there is such an object.

        Raises:
            NoSuchBucketError: there is no such bucket.
        """
        with self._backends.operation("exists", uri, field) as (store, location, _):
            return store.exists(location)

    def read(self, uri: str, *, sha256: str | None = None, field: str = "") -> bytes:
        """The whole content.

        Raises:
            ObjectNotFoundError: there is no such object.
            ChecksumMismatchError: its sha256 is not `sha256`, or not the one that it was written
                with, however often it is read.
        """
        with self._backends.operation("read", uri, field) as (store, location, count):
            data = store.read(location, sha256)
            count(len(data))
        return data

    def read_start(self, uri: str, length: int, *, field: str = "") -> bytes:
        """The first `length` bytes of the content, or all of a shorter object; not verified.

        Raises:
            ObjectNotFoundError: there is no such object.
        """
        with self._backends.operation("read", uri, field) as (store, location, count):
            data = store.read_start(location, length)
            count(len(data))
        return data

    def read_many(
        self, uris: Iterable[str], *, sha256: Mapping[str, str] | None = None, field: str = ""
    ) -> Iterator[tuple[str, bytes]]:
        """Pairs of URI and content, in the given order; the next few are read ahead.

        Args:
            uris: objects to read.
            sha256: hexadecimal digests by URI, of those that are known.
            field: the job's field that the URIs come from.
        """
        known = sha256 or {}

        def read(uri: str) -> tuple[str, bytes]:
            return uri, self.read(uri, sha256=known.get(uri), field=field)

        return prefetch(self._pool, (partial(read, uri) for uri in uris), self._ahead)

    def write(
        self, uri: str, data: bytes, *, only_if_absent: bool = False, field: str = _WRITE_FIELD
    ) -> Written:
        """Store `data`, durably.

        Raises:
            AlreadyExistsError: `only_if_absent`, and there is an object already. Of several
                writers at once, exactly one succeeds.
        """
        with self._backends.operation("write", uri, field) as (store, location, count):
            written = store.write(location, data, only_if_absent)
            count(written.size)
        return written

    def upload(self, path: str | Path, uri: str, *, field: str = _WRITE_FIELD) -> Written:
        """Store the content of a file, in parts of `TransferPolicy.part_size` bytes.

        Raises:
            StorageFullError: there is no room left.
            LocalFileError: the file cannot be read.
        """
        with self._backends.operation("write", uri, field) as (store, location, count):
            written = store.upload(Path(path), location)
            count(written.size)
        return written

    def stream(self, path: str | Path, uri: str, *, field: str = _WRITE_FIELD) -> Written:
        """As `upload`, but hashed while its parts move, so the caller does not wait for a hash.

        The object does not carry its sha256: a reader has to know it, such as from a checkpoint's
        manifest.

        Raises:
            StorageFullError: there is no room left.
        """
        with self._backends.operation("write", uri, field) as (store, location, count):
            written = store.stream(Path(path), location)
            count(written.size)
        return written

    def download(
        self,
        uri: str,
        path: str | Path,
        *,
        sha256: str | None = None,
        durable: bool = True,
        field: str = "",
    ) -> None:
        """Write the content to `path`, which appears complete or not at all.

        Without `durable` that holds only until the host crashes, and nobody waits for the disk.

        Raises:
            LocalFileError: the file cannot be written.
            ObjectNotFoundError: there is no such object.
            ChecksumMismatchError: its sha256 is not `sha256`, or not the one that it was written
                with.
        """
        with self._backends.operation("read", uri, field) as (store, location, count):
            count(store.download(location, Path(path), sha256, durable))

    def upload_tree(
        self, folder: str | Path, prefix_uri: str, *, field: str = _WRITE_FIELD
    ) -> Sequence[Written]:
        """Store every file below `folder` at its relative path below the prefix.

        Hidden files and folders stay behind. A single file in place of a folder is stored at the
        prefix itself. Returns what was written, sorted by path.

        Raises:
            StorageError: a file could not be stored; others may have been.
        """
        return run_all(
            self._pool,
            [
                partial(self.upload, path, join(prefix_uri, relative), field=field)
                for path, relative in files_below(Path(folder))
            ],
        )

    def download_tree(
        self,
        prefix_uri: str,
        folder: str | Path,
        *,
        select: Callable[[str], bool] | None = None,
        field: str = "",
    ) -> Sequence[Path]:
        """Write the objects below the prefix whose relative path is selected to `folder`.

        Returns the files, sorted by path; each appears complete or not at all.

        Raises:
            EmptyPrefixError: there is nothing below the prefix.
            StorageError: an object's name would put a file outside of `folder`, or is no file name.
                Nothing has been written then.
        """
        objects = self.list_nonempty(prefix_uri, field=field)
        selected = [each for each in objects if select is None or select(each.relative)]
        try:
            targets = [path_below(Path(folder), each) for each in selected]
        except StorageError as error:
            error.field = field
            raise
        run_all(
            self._pool,
            [
                partial(self.download, each.uri, target, field=field)
                for each, target in zip(selected, targets, strict=True)
            ],
        )
        return targets

    def delete(
        self, uris: Iterable[str], *, folders: bool = False, field: str = _WRITE_FIELD
    ) -> None:
        """Remove objects; missing ones are no error.

        With `folders`, folders of a file system that are empty afterwards are removed, too.

        Raises:
            AccessDeniedError: an object may not be deleted; others may have been.
        """
        uris = list(uris)
        run_all(self._pool, [partial(self._delete, uri, field) for uri in uris])
        if folders:
            self._backends.remove_empty_folders(uris)

    def abort_unfinished(
        self, prefix_uri: str, selects: Callable[[str], bool], *, field: str = _WRITE_FIELD
    ) -> None:
        """Free what killed writers have left below the prefix.

        Unfinished multipart uploads take space, though no listing shows them (S3
        AbortMultipartUpload).

        Args:
            prefix_uri: where to look.
            selects: called with each relative path; False: the upload is left alone.
            field: the job's field that the URI comes from.

        Raises:
            StorageError: the server does not list unfinished uploads.
        """
        with self._backends.operation("delete", prefix_uri, field) as (store, location, _):
            store.abort_unfinished(location, selects)

    def close(self) -> None:
        """Wait for running operations, and close the connections."""
        self._pool.shutdown()
        self._backends.close()

    def __enter__(self) -> Storage:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _delete(self, uri: str, field: str) -> None:
        with self._backends.operation("delete", uri, field) as (store, location, _):
            store.delete(location)
