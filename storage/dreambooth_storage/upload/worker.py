"""The process that uploads open files of another one: the other end of `upload.process`.

It loads no torch, so it starts in half a second. It ends with its parent, however that ends: their
connection closes then.
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
"""Training goes on meanwhile, and goes first."""


class Relay:
    """Sends messages to the parent, from any thread. It is a TransferObserver."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
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
    """Upload each open file to its URI, and send what was written, or the first error."""
    written: list[Written] = []
    try:
        for descriptor, uri in files:
            written.append(storage.stream(f"/proc/self/fd/{descriptor}", uri))
    except StorageError as error:
        relay.send("error", error)
    except Exception as error:
        reason = f"could not be uploaded: {type(error).__name__}: {error}"
        relay.send(
            "error", StorageError(files[len(written)][1], reason, "check the log of the rank")
        )
    else:
        relay.send("done", written)


def main() -> None:
    """Serve the requests of the connection whose descriptor is the only argument."""
    for number in (signal.SIGTERM, signal.SIGINT):  # the parent ends it: a stopped rank still saves
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
            os._exit(0)  # the parent is gone, and with it whoever waits
        threading.Thread(target=upload, args=(storage, files, relay), daemon=True).start()


if __name__ == "__main__":
    main()
