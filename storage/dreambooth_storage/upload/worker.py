"""The upload process: the other end of `upload.process`.

It imports no torch, and boto3 only for s3://: it takes 10 MB, or 25 MB with boto3. It exits when
its parent does, however that exits, as their connection closes then.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from dreambooth_storage.errors import StorageError
from dreambooth_storage.interface import Written
from dreambooth_storage.storage import Storage

NICENESS = 10
"""Uploads yield the CPU to the training that goes on meanwhile."""


class Relay:
    """Sends messages to the parent, from any thread. It is a `TransferObserver`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        # A Connection is not thread-safe: messages of several threads would interleave.
        self._lock = threading.Lock()

    def send(self, kind: str, *details: Any) -> None:
        """Send one message."""
        with self._lock:
            self._connection.send((kind, details))

    def progressed(self) -> None:
        """See `TransferObserver.progressed`."""
        self.send("progressed")

    def transferred(self, operation: str, size: int, seconds: float) -> None:
        """See `TransferObserver.transferred`."""
        self.send("transferred", operation, size, seconds)

    def failed(self, operation: str, error_code: str) -> None:
        """See `TransferObserver.failed`."""
        self.send("failed", operation, error_code)


def upload(storage: Storage, files: Sequence[tuple[int, str]], relay: Relay) -> None:
    """Upload each open file to its URI; send the results ("done") or the first `StorageError`."""
    written: list[Written] = []
    try:
        for descriptor, uri in files:
            written.append(storage.stream(f"/proc/self/fd/{descriptor}", uri))
    except StorageError as error:
        relay.send("error", error)
    except Exception as error:  # any: the parent waits for an answer
        reason = f"could not be uploaded: {type(error).__name__}: {error}"
        relay.send(
            "error", StorageError(files[len(written)][1], reason, "check the log of the rank")
        )
    else:
        relay.send("done", written)


def main() -> None:
    """Serve the requests of the connection whose descriptor is the only argument."""
    # Signals to the process group are ignored: a rank that is asked to stop still saves its state
    # through this process, and kills it at the end.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)
    connection = Connection(int(sys.argv[1]))
    settings, policy = connection.recv()
    relay = Relay(connection)
    storage = Storage(settings, relay, policy)
    while True:
        try:
            files = connection.recv()
        except (EOFError, OSError):
            # The parent has exited. Without the usual cleanup, which would wait for uploads.
            os._exit(0)
        # In a thread, so that this one notices the end of the parent during an upload.
        threading.Thread(target=upload, args=(storage, files, relay), daemon=True).start()


if __name__ == "__main__":
    main()
