"""/metrics, /healthz and /readyz: a small HTTP server in a thread of its own.

It has a thread so that it answers while the event loop is busy, and reports one that is stuck.
"""

import logging
import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from dreambooth_api.contract.request_handler import RequestHandler
from dreambooth_operator.errors import UserError

logger = logging.getLogger(__name__)

Probe = Callable[[], str]
"""Returns the problem; empty if there is none."""


class HealthServer:
    """Serves until `close`. Raises `UserError` if the port cannot be used."""

    def __init__(
        self, port: int, registry: CollectorRegistry, liveness: Probe, readiness: Probe
    ) -> None:
        """Port 0 takes a free one."""

        class Handler(_Handler):
            metrics = registry
            probes = {"/healthz": liveness, "/readyz": readiness}

        try:
            self._server = ThreadingHTTPServer(("", port), Handler)
        except OSError as error:
            raise UserError(
                f"metricsPort: {port} cannot be used: {error.strerror}; choose another"
            ) from error
        # A connection that hangs must not keep the process from ending.
        self._server.daemon_threads = True
        self.port = self._server.server_port
        thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)
        thread.start()
        logger.info("serving /metrics, /healthz and /readyz on port %d", self.port)

    def close(self) -> None:
        """Stop serving, and release the port; waits up to half a second."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(RequestHandler):
    metrics: CollectorRegistry
    probes: dict[str, Probe]

    def do_GET(self) -> None:  # noqa: N802, the name that BaseHTTPRequestHandler calls
        if self.path == "/metrics":
            self._answer(200, generate_latest(self.metrics), CONTENT_TYPE_LATEST)
        elif self.path in self.probes:
            problem = self.probes[self.path]()
            self._answer(503 if problem else 200, (problem or "ok").encode())
        else:
            self._answer(404, b"see /metrics, /healthz and /readyz")

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: kubelet and Prometheus ask every few seconds."""

    def _answer(self, code: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
