"""A hub on loopback: the few endpoints that its client asks when it lists and downloads."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer(ThreadingHTTPServer):
    """Serves one folder as a repository, and notes the files that were downloaded."""

    def __init__(self, repository: str, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repository, self.folder = repository, folder
        self.downloaded: set[str] = set()
        self.is_gated = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files(self) -> dict[str, Path]:
        paths = (path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path for path in paths}


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        files = self.server.files()
        if path.startswith(f"api/models/{self.server.repository}/tree/"):
            tree = [
                {"type": "file", "oid": _digest(file), "size": file.stat().st_size, "path": name}
                for name, file in files.items()
            ]
            self._send(200, json.dumps(tree).encode(), with_body)
        elif path.startswith(f"api/models/{self.server.repository}"):
            siblings = [
                {"rfilename": name, "size": file.stat().st_size, "blobId": _digest(file)}
                for name, file in files.items()
            ]
            info = {"id": self.server.repository, "sha": COMMIT, "siblings": siblings}
            self._send(200, json.dumps(info).encode(), with_body)
        elif self.server.is_gated:
            self._send(401, b"", with_body, {"X-Error-Code": "GatedRepo"})
        elif path.startswith(f"{self.server.repository}/resolve/"):
            name = path.split("/", 4)[4]
            if name not in files:
                self._send(404, b"", with_body, {"X-Error-Code": "EntryNotFound"})
                return
            content = files[name].read_bytes()
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{_digest(files[name])}"'}
            span = self.headers.get("Range")
            if span:
                first, last = span.removeprefix("bytes=").split("-")
                total = len(content)
                content = content[int(first) : int(last or total) + 1]
                headers["Content-Range"] = f"bytes {first}-{int(first) + len(content) - 1}/{total}"
            elif with_body:
                self.server.downloaded.add(name)
            self._send(206 if span else 200, content, with_body, headers)
        else:
            self._send(404, b"", with_body, {"X-Error-Code": "RepoNotFound"})

    def _send(
        self, status: int, body: bytes, with_body: bool, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


def _digest(file: Path) -> str:
    return hashlib.sha1(file.read_bytes(), usedforsecurity=False).hexdigest()


@contextmanager
def serve(repository: str, folder: Path) -> Iterator[HubServer]:
    """The hub, while the context is open."""
    with HubServer(repository, folder) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
