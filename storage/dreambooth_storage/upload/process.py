"""Uploads in a separate process.

In a thread, signing, hashing and copying would hold the GIL, and every training step would wait for
it. Content is shared without a copy: both processes have the same files open, which may be
anonymous memory (memfd_create(2)) that the kernel frees when the last process closes it or exits.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from dreambooth_storage.errors import StorageError
from dreambooth_storage.interface import (
    NullObserver,
    StorageSettings,
    TransferObserver,
    TransferPolicy,
    Written,
)

KILL_TIMEOUT_SECONDS = 5.0
MODULE = "dreambooth_storage.upload.worker"


class UploadProcess:
    """Uploads files that this process has open.

    The process starts at the first upload at the latest, is restarted after it died, and never
    outlives this one.
    """

    def __init__(
        self,
        settings: StorageSettings,
        observer: TransferObserver | None = None,
        policy: TransferPolicy | None = None,
    ) -> None:
        self._settings = settings
        self._observer: TransferObserver = observer or NullObserver()
        self._policy = policy
        self._descriptors: tuple[int, ...] = ()
        self._closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    @property
    def pid(self) -> int | None:
        """Its process id, None while it does not run."""
        return self._process.pid if self._process is not None else None

    def set_descriptors(self, descriptors: Sequence[int]) -> None:
        """Set the open files that later uploads may name. No upload may be under way."""
        # Descriptors are inherited at the start only, so the next upload starts a new process.
        self._end()
        self._descriptors = tuple(descriptors)

    def upload(
        self,
        files: Sequence[tuple[int, str]],
        on_progress: Callable[[], None] | None = None,
    ) -> list[Written]:
        """Store each open file at its URI, and wait. One call at a time.

        Args:
            files: descriptors set by `set_descriptors`, each with the URI to store it at.
            on_progress: called in place of the observer's `progressed`, for a caller whose uploads
                run in the background and are no sign of its own progress.

        Raises:
            StorageError: the first file that could not be stored, or the process has died.
        """
        progressed = on_progress or self._observer.progressed
        try:
            connection = self._connected()
            connection.send(files)
            while True:
                kind, details = connection.recv()
                if kind == "done":
                    written: list[Written] = details[0]
                    return written
                if kind == "error":
                    raise details[0]
                if kind == "progressed":
                    progressed()
                else:
                    self._relay(kind, details)
        except (EOFError, OSError):  # the connection broke; a StorageError is neither
            raise self._died(files[0][1]) from None

    def close(self) -> None:
        """Kill the process; `upload` and `start` then raise `RuntimeError`."""
        self._closed = True
        self._end()

    def _end(self) -> None:
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if process is not None:
            # SIGKILL, as it ignores SIGTERM. Nothing is lost: objects appear whole or not at all.
            process.kill()
            with suppress(subprocess.TimeoutExpired):  # it may hang in the kernel
                process.wait(KILL_TIMEOUT_SECONDS)
        if connection is not None:
            connection.close()

    def start(self) -> None:
        """Start the process unless it is running, so that the first upload need not wait for it.

        Raises:
            RuntimeError: `close` was called.
        """
        if self._process is not None and self._process.poll() is not None:
            self._end()
        if self._closed:
            raise RuntimeError("the upload process is closed")
        if self._process is None:
            ours, theirs = socket.socketpair()
            # Our copy of the child's end is closed, or the child's exit would go unnoticed.
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", MODULE, str(theirs.fileno())],
                    pass_fds=(theirs.fileno(), *self._descriptors),
                    stdin=subprocess.DEVNULL,
                )
            self._connection = Connection(ours.detach())
            self._connection.send((self._settings, self._policy))

    def _connected(self) -> Connection:
        self.start()
        assert self._connection is not None
        return self._connection

    def _relay(self, kind: str, details: tuple[Any, ...]) -> None:
        if kind == "transferred":
            self._observer.transferred(*details)
        elif kind == "failed":
            self._observer.failed(*details)

    def _died(self, uri: str) -> StorageError:
        process = self._process
        self._end()
        code = process.returncode if process is not None else None
        return StorageError(
            uri,
            f"was not uploaded: the upload process ended with exit code {code}",
            "-9 usually means that the pod needs more memory",
            "spec.output",
        )
