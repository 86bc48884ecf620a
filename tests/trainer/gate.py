"""A TCP proxy that can be shut: what comes in then waits, as with storage that hangs."""

import socket
import socketserver
import threading
from contextlib import suppress
from types import TracebackType
from urllib.parse import urlsplit


class Gate:
    """Forwards to `endpoint_url`; a context manager. Signed requests pass: they sign its host."""

    def __init__(self, endpoint_url: str) -> None:
        target = urlsplit(endpoint_url)
        assert target.hostname
        self._target = target.hostname, target.port
        self._open = threading.Event()
        self._open.set()
        self._refusing = False
        self.arrived = threading.Event()
        """Something has come in since the gate was last shut."""
        self.refused = 0
        gate = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                gate.serve(self.request)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def shut(self) -> None:
        """From now on, what comes in waits."""
        self.arrived.clear()
        self._open.clear()

    def refuse(self) -> None:
        """From now on, connections break off as soon as something comes in."""
        self._refusing = True
        self._open.set()

    def open(self) -> None:
        """Let everything through again, what waits too."""
        self._refusing = False
        self._open.set()

    def serve(self, client: socket.socket) -> None:
        """Forward one connection."""
        with socket.create_connection(self._target) as server:
            back = threading.Thread(target=_pump, args=(server, client), daemon=True)
            back.start()
            with suppress(OSError):
                while data := client.recv(65536):
                    self.arrived.set()
                    self._open.wait()
                    if self._refusing:
                        self.refused += 1
                        break
                    server.sendall(data)
            for end in (server, client):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            back.join()

    def __enter__(self) -> "Gate":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.open()
        self._server.shutdown()
        self._server.server_close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
