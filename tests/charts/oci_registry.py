"""An OCI registry on loopback: enough of the distribution API to push and pull a chart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlsplit


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Registry

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        content, kind = self.server.contents.get(path, (None, ""))
        if path == "/v2/":
            self._answer(200)
        elif content is None:
            self._answer(404, b'{"errors": []}')
        else:
            self._answer(200, content, kind)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self._answer(202, location=f"{self.path}session")

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        kind = self.headers.get("Content-Type", "application/octet-stream")
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        url = urlsplit(self.path)
        folder, _, name = url.path.rpartition("/")
        if name == "session":
            (digest,) = parse_qs(url.query)["digest"]
            folder = folder.removesuffix("/uploads")
        else:
            self.server.contents[url.path] = content, kind
        self.server.contents[f"{folder}/{digest}"] = content, kind
        self._answer(201, location=f"{folder}/{digest}")

    def _answer(
        self, status: int, content: bytes = b"", kind: str = "application/json", location: str = ""
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if content:
            self.send_header(
                "Docker-Content-Digest", f"sha256:{hashlib.sha256(content).hexdigest()}"
            )
        if location:
            self.send_header("Location", location)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Registry(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        self.contents: dict[str, tuple[bytes, str]] = {}
        super().__init__(("127.0.0.1", 0), _Handler)


@contextmanager
def oci_registry() -> Iterator[str]:
    """Serve an empty registry without TLS; yields its host and port."""
    with _Registry() as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
