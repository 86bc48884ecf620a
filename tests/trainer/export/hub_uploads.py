"""A hub on loopback that takes uploads: repositories, git-lfs batches and commits."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Keeps the files of all commits."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.token = "hf_right"
        self.repositories: dict[str, bool] = {}
        """By name, whether it is private."""
        self.files: dict[str, bytes] = {}
        self.messages: list[str] = []
        self.stored: dict[str, bytes] = {}
        """Of git-lfs, by sha256."""
        self.failures = 0
        """How many of the next commits fail with 503."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        content = self._body()
        assert hashlib.sha256(content).hexdigest() == self.path.rpartition("/")[2]
        self.server.stored[self.path.rpartition("/")[2]] = content
        self._send(200, {})

    def do_GET(self) -> None:
        right = self.headers["Authorization"] == f"Bearer {self.server.token}"
        known = self.path == "/api/whoami-v2"
        self._send(401 if not right else 200 if known else 404, {"name": "me"})

    def do_POST(self) -> None:
        body = self._body()
        if self.headers["Authorization"] != f"Bearer {self.server.token}":
            self._send(401, {"error": "Invalid username or password."})
            return
        path = urlsplit(self.path).path
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            known = name in self.server.repositories
            self.server.repositories.setdefault(name, asked["visibility"] == "private")
            self._send(409 if known else 200, {"url": f"{self.server.url}/{name}"})
        elif "/preupload/" in path:
            files = [
                {"path": each["path"], "shouldIgnore": False, "uploadMode": _mode(each["path"])}
                for each in json.loads(body)["files"]
            ]
            self._send(200, {"files": files})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**each, "actions": {"upload": {"href": f"{self.server.url}/lfs/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            self._send(200, {"transfer": "basic", "objects": objects})
        elif path == "/api/validate-yaml":
            self._send(200, {"errors": [], "warnings": []})
        else:
            self._commit(path, body)

    def _commit(self, path: str, body: bytes) -> None:
        if self.server.failures:
            self.server.failures -= 1
            self._send(503, {})
            return
        assert path.endswith("/commit/main"), path
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                self.server.messages.append(value["summary"])
            elif item["key"] == "file":
                self.server.files[value["path"]] = base64.b64decode(value["content"])
            else:
                self.server.files[value["path"]] = self.server.stored[value["oid"]]
        [name] = self.server.repositories
        url = f"{self.server.url}/{name}/commit/{COMMIT}"
        self._send(200, {"commitUrl": url, "commitOid": COMMIT})

    def _body(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _send(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.git-lfs+json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def _mode(path: str) -> str:
    return "lfs" if path.endswith(".safetensors") else "regular"


@contextmanager
def serve() -> Iterator[Hub]:
    with Hub() as hub:
        thread = Thread(target=hub.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
