"""The HTTP server of a rank: /metrics, /healthz and, on rank 0, /progress."""

import logging
import socket
import threading
from http.server import ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST

from dreambooth_api.contract import environment
from dreambooth_api.contract.request_handler import RequestHandler
from dreambooth_trainer.telemetry.metrics import Metrics
from dreambooth_trainer.telemetry.progress import ProgressState

log = logging.getLogger(__name__)


class _Handler(RequestHandler):
    server: "_HttpServer"

    def do_GET(self) -> None:  # noqa: N802, the name that BaseHTTPRequestHandler calls
        path = self.path.split("?", 1)[0]
        if path == "/metrics":
            self._send(self.server.metrics.render(), CONTENT_TYPE_LATEST)
        elif path == "/progress" and self.server.progress is not None:
            body = self.server.progress.snapshot().model_dump_json().encode()
            self._send(body, "application/json")
        elif path == "/healthz":
            self._send(b"ok\n", "text/plain; charset=utf-8")
        else:
            self.send_error(404)

    def _send(self, body: bytes, content_type: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        log.debug(format, *args)


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True  # a request that hangs must not keep the rank from exiting

    def __init__(
        self, metrics: Metrics, progress: ProgressState | None, address: str, port: int
    ) -> None:
        self.metrics, self.progress = metrics, progress
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        super().__init__((address, port), _Handler)

    def handle_error(self, _request: object, client_address: object) -> None:
        # Clients that close their connection early are normal; the default prints a traceback.
        log.debug("request of %s failed", client_address, exc_info=True)


class Server:
    """Answers GET requests from daemon threads; `/progress` only where `progress` is given.

    Raises:
        OSError: The port cannot be listened on.
    """

    def __init__(
        self, metrics: Metrics, progress: ProgressState | None, address: str, port: int
    ) -> None:
        self._http = _HttpServer(metrics, progress, address, port)
        self.port: int = self._http.server_address[1]
        # serve_forever checks every 0.1 s whether `close` was called; its default is 0.5 s.
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.1,), name="metrics-http", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving and free the port; waits for at most 0.1 seconds."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def serve(
    metrics: Metrics, progress: ProgressState | None, address: str, port: int
) -> Server | None:
    """Start serving on `address`:`port` (0: any free port).

    An `OSError` of the port is logged as a warning and the result is None: training goes on without
    metrics.
    """
    try:
        return Server(metrics, progress, address, port)
    except OSError as error:
        log.warning(
            "no metrics and no progress: cannot listen on %s:%d (%s); set %s to a free port",
            address,
            port,
            error,
            environment.METRICS_PORT,
        )
        return None
