"""Reads the progress of a local run in the background."""

import socket
import threading
import time
from types import TracebackType

from dreambooth_api.contract.progress import MAX_BYTES, Progress, UnreadableProgressError

TIMEOUT_SECONDS = 2.0
"""For the whole answer, from connecting to the last byte."""
REQUEST = b"GET /progress HTTP/1.0\r\nConnection: close\r\n\r\n"


class ProgressReader:
    """Polls rank 0 every `interval_seconds` seconds in a thread; a context manager.

    A slow answer never holds up the run. No answer is usual at the start and the end, so `latest`
    keeps the last one that was read.
    """

    def __init__(self, address: str, port: int, interval_seconds: float = 0.5) -> None:
        self.latest: Progress | None = None
        """The newest answer; None before the first one."""
        self.problem: str | None = None
        """Why the last answer could not be read, for example because of its version."""
        self._address = (address, port)
        self._interval = interval_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="progress", daemon=True)

    def __enter__(self) -> "ProgressReader":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _poll(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                self.latest = Progress.decode(_get(self._address, TIMEOUT_SECONDS))
                self.problem = None
            except UnreadableProgressError as error:
                self.problem = str(error)
            except OSError:
                continue


def _get(address: tuple[str, int], timeout: float) -> bytes:
    """The body of the answer to GET /progress, within `timeout` seconds and `MAX_BYTES`.

    The time-out of http.client starts again with each byte that arrives, so that a server that
    sends one byte at a time would block the thread for ever.

    Raises:
        OSError: There is no complete answer in time, or its status is an error.
        UnreadableProgressError: The answer is too long.
    """
    deadline = time.monotonic() + timeout
    received = b""
    with socket.create_connection(address, timeout) as connection:
        connection.sendall(REQUEST)
        while chunk := connection.recv(1 << 16):
            received += chunk
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError(f"no complete answer in {timeout:g} s")
            if len(received) > MAX_BYTES:
                raise UnreadableProgressError(f"the answer is longer than {MAX_BYTES} bytes")
            connection.settimeout(remaining)
    head, _, body = received.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    if status != [b"200"]:
        raise ConnectionError(f"HTTP status {b''.join(status).decode(errors='replace')}")
    return body
