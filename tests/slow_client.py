"""A client of HTTP servers that never completes its request."""

import socket
import time
from contextlib import suppress

INTERVAL = 0.05
"""Seconds from byte to byte."""


def seconds_until_closed(host: str, port: int, limit: float) -> float:
    """Send a request byte by byte until the server ends the connection, or for `limit` seconds."""
    began = time.monotonic()
    address = (host, port)
    with socket.create_connection(address, INTERVAL) as connection, suppress(ConnectionError):
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: ")
        while time.monotonic() - began < limit:
            connection.sendall(b"a")
            with suppress(TimeoutError):
                if connection.recv(1) == b"":
                    break
    return time.monotonic() - began
