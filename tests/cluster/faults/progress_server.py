"""Serves rank 0's /progress for a fake pod."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from tests.cluster.client import Object

PORT = 9300
"""Of the jobs' metrics. Trainers of other tests may listen on the default, on all addresses."""


class ProgressServer:
    """Serves /progress on a pod's own loopback address; a context manager."""

    def __init__(self, address: str, attempt: int) -> None:
        self.progress: Object = {
            "stage": "Training",
            "attempt": attempt,
            "step": 7,
            "totalSteps": 10,
            "loss": 0.25,
        }
        """The body of the next responses."""
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(server.progress).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                """Keep the test output clean."""

        self._server = ThreadingHTTPServer((address, PORT), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="rank 0")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
