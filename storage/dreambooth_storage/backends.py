"""Finds the backend of a URI, and reports every operation on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dreambooth_storage.errors import StorageError
from dreambooth_storage.files.store import FileStore
from dreambooth_storage.interface import (
    AccessKey,
    Backend,
    StorageSettings,
    TransferObserver,
    TransferPolicy,
)
from dreambooth_storage.uri import Location, parse

if TYPE_CHECKING:
    from dreambooth_storage.s3.store import S3Store


class Backends:
    """S3, from its first use on, and the file system. All methods raise `StorageError`."""

    def __init__(
        self,
        settings: StorageSettings,
        policy: TransferPolicy,
        observer: TransferObserver,
        credentials: AccessKey | None = None,
    ) -> None:
        self._settings = settings
        self._policy = policy
        self._observer = observer
        self._credentials = credentials
        self._lock = threading.Lock()
        self._s3: S3Store | None = None
        self._files = FileStore()

    @contextmanager
    def operation(
        self, name: str, uri: str, field: str
    ) -> Iterator[tuple[Backend, Location, Callable[[int], None]]]:
        """The backend and the location of a URI, and a function that counts bytes.

        Adds the field to errors, and reports the operation to the observer.
        """
        sizes: list[int] = []
        start = time.perf_counter()
        try:
            location = parse(uri)
            store = self._files if location.is_file else self._opened_s3()
            yield store, location, sizes.append
        except StorageError as error:
            error.field = error.field or field
            raise
        # S3's requests report progress themselves; a file's operation does so here.
        self._observer.progressed()
        self._observer.transferred(name, sum(sizes), time.perf_counter() - start)

    def broken_links(self, uri: str) -> Sequence[str]:
        """See `FileStore.broken_links`; S3 has none."""
        location = parse(uri)
        return self._files.broken_links(location) if location.is_file else []

    def remove_empty_folders(self, uris: Iterable[str]) -> None:
        """Remove folders of files that were deleted, where nothing is left in them."""
        locations = [parse(uri) for uri in uris]
        self._files.remove_empty_folders([each for each in locations if each.is_file])

    def close(self) -> None:
        """Wait for running requests, and close the connections."""
        if self._s3 is not None:
            self._s3.close()

    def _opened_s3(self) -> S3Store:
        # Imported here: boto3 takes 0.2 s and 15 MB, also in the process of the uploads.
        from dreambooth_storage.s3.store import S3Store

        with self._lock:
            if self._s3 is None:
                self._s3 = S3Store(self._settings, self._policy, self._observer, self._credentials)
            return self._s3
