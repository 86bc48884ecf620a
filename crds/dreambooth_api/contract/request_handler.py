"""The handler of HTTP requests that the metrics servers of trainer and operator have in common."""

import io
import socket
import time
from http.server import BaseHTTPRequestHandler
from typing import ClassVar

REQUEST_SECONDS = 10.0
"""A client has this long to send its request, and as long again to read the answer."""


class RequestHandler(BaseHTTPRequestHandler):
    """Ends a connection whose request is not complete after `timeout` seconds.

    Each connection occupies a thread. A time-out of the socket alone starts anew with each byte, so
    that a client that sends them one by one could hold the thread for ever.
    """

    timeout: ClassVar[float] = REQUEST_SECONDS

    def setup(self) -> None:
        """Replace the reader of the request by one with a deadline."""
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_DeadlineReader(self.connection, self.timeout))


class _DeadlineReader(io.RawIOBase):
    """Reads from a socket for at most so many seconds, all reads together."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request was not complete in time")
        self._connection.settimeout(left)
        try:
            return self._connection.recv_into(buffer)
        finally:
            self._connection.settimeout(self._seconds)
