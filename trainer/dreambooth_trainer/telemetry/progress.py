"""How far the job is: what `/progress` says, and the small HTTP server that says it."""

import json
import logging
import math
import socket
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeAlias

from prometheus_client import CONTENT_TYPE_LATEST

from dreambooth_trainer.telemetry.metrics import Metrics

Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None

log = logging.getLogger(__name__)

_SAMPLES = 20
"""How many of the newest samples are told: the answer ends up in the job's status."""


@dataclass
class Average:
    """Exponential moving average whose first values count fully (Adam's bias correction)."""

    decay: float
    _sum: float = 0.0
    _weight: float = 0.0

    def add(self, value: float) -> None:
        """Count one more value."""
        self._sum = self.decay * self._sum + (1 - self.decay) * value
        self._weight = self.decay * self._weight + (1 - self.decay)

    @property
    def value(self) -> float | None:
        """The average, None before the first value."""
        return self._sum / self._weight if self._weight else None


def now() -> str:
    """The time as RFC 3339 in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Progress:
    """The state behind `/progress` on rank 0. Thread-safe: the loop writes, the HTTP server
    reads.
    """

    total_steps: int
    attempt: int = 0
    world_size: int = 1
    output: str | None = None
    """Folder of the run."""
    _stage: str = "Preparing"
    _step: int = 0
    _losses: dict[str, Json] = field(default_factory=dict)
    _step_seconds: Average = field(default_factory=lambda: Average(0.95))
    _step_images: Average = field(default_factory=lambda: Average(0.95))
    _checkpoint: dict[str, Json] | None = None
    _failed_saves: int = 0
    _save_problem: str | None = None
    _prior: Json = None
    _samples: list[str] = field(default_factory=list)
    _export: str | None = None
    _updated: str = field(default_factory=now)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def stage(self, stage: str) -> None:
        """The job enters `stage`."""
        with self._lock:
            self._stage, self._updated = stage, now()

    def resumed(self, step: int) -> None:
        """Training goes on from a checkpoint of `step`."""
        with self._lock:
            self._step, self._updated = step, now()

    def step_done(self, step: int, *, images: int, seconds: float) -> None:
        """Optimizer step number `step` is done: `images` images over all ranks in `seconds`."""
        with self._lock:
            self._step, self._updated = step, now()
            self._step_seconds.add(seconds)
            self._step_images.add(images)

    def losses(
        self, loss: float, subject: float, prior: float | None, learning_rate: float
    ) -> None:
        """Losses that have reached the host."""
        with self._lock:
            self._losses = {
                "loss": _finite(loss),
                "subjectLoss": _finite(subject),
                "priorLoss": _finite(prior),
                "learningRate": _finite(learning_rate),
            }

    def checkpoint(self, step: int, uri: str) -> None:
        """The checkpoint of `step` is durable."""
        with self._lock:
            self._checkpoint = {"step": step, "uri": uri, "time": now()}
            self._save_problem = None

    @property
    def saved(self) -> str:
        """`step 500 in URI` of the newest checkpoint of this attempt; empty: there is none."""
        with self._lock:
            found = self._checkpoint
        return f"step {found['step']} in {found['uri']}" if found else ""

    def save_failed(self, problem: str) -> None:
        """A checkpoint could not be saved; the training goes on."""
        with self._lock:
            self._failed_saves, self._save_problem = self._failed_saves + 1, problem

    def prior(self, done: int, total: int) -> None:
        """`done` of `total` class images are there."""
        with self._lock:
            self._prior, self._updated = {"done": done, "total": total}, now()

    def sample(self, uri: str) -> None:
        """A sample image or grid was written to `uri`."""
        with self._lock:
            self._samples = [*self._samples, uri][-_SAMPLES:]

    def exported(self, uri: str) -> None:
        """The model to take home is complete at `uri`."""
        with self._lock:
            self._export, self._updated = uri, now()

    @property
    def images_per_second(self) -> float | None:
        """Smoothed throughput over all ranks, None before the first step."""
        seconds, images = self._step_seconds.value, self._step_images.value
        return images / seconds if seconds and images is not None else None

    def _eta(self) -> float | None:
        """Seconds of training left, without the samples and checkpoints to come."""
        seconds = self._step_seconds.value
        return None if seconds is None else seconds * max(self.total_steps - self._step, 0)

    def snapshot(self) -> dict[str, Json]:
        """The JSON object of `/progress`.

        `failedSaves` are those of this attempt, `saveProblem` is there until a save succeeds.
        `samples` are the grids of this attempt, the newest last; `export` is there from the moment
        at which it is complete, which is shortly before the pod ends.
        """
        with self._lock:
            return {
                "stage": self._stage,
                "step": self._step,
                "totalSteps": self.total_steps,
                **dict.fromkeys(("loss", "subjectLoss", "priorLoss", "learningRate")),
                **self._losses,
                "imagesPerSecond": self.images_per_second,
                "etaSeconds": self._eta(),
                "attempt": self.attempt,
                "worldSize": self.world_size,
                "lastCheckpoint": self._checkpoint,
                "failedSaves": self._failed_saves,
                "saveProblem": self._save_problem,
                "prior": self._prior,
                "samples": list(self._samples),
                "output": self.output,
                "export": self._export,
                "updatedAt": self._updated,
            }


def _finite(value: float | None) -> float | None:
    """JSON has no NaN: a strict reader would refuse the whole answer."""
    return value if value is not None and math.isfinite(value) else None


class _Handler(BaseHTTPRequestHandler):
    server: "_HttpServer"
    timeout = 10  # seconds, so that an idle client does not hold a thread for ever

    def do_GET(self) -> None:
        path = self.path.split("?", 1)[0]
        if path == "/metrics":
            self._send(self.server.metrics.render(), CONTENT_TYPE_LATEST)
        elif path == "/progress" and self.server.progress is not None:
            self._send(json.dumps(self.server.progress.snapshot()).encode(), "application/json")
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
    daemon_threads = True

    def __init__(
        self, metrics: Metrics, progress: Progress | None, address: str, port: int
    ) -> None:
        self.metrics, self.progress = metrics, progress
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        super().__init__((address, port), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no news."""
        log.debug("request of %s failed", client_address, exc_info=True)


class Server:
    """Serves `/metrics`, `/healthz` and, given a Progress, `/progress`, from daemon threads."""

    def __init__(
        self, metrics: Metrics, progress: Progress | None, address: str, port: int
    ) -> None:
        self._http = _HttpServer(metrics, progress, address, port)
        self.port: int = self._http.server_address[1]
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.1,), name="metrics-http", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving and free the port."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def serve(metrics: Metrics, progress: Progress | None, address: str, port: int) -> Server | None:
    """Start serving on `address`:`port` (0: any free port).

    A port that cannot be had costs the metrics, not the training: it warns and returns None.
    """
    try:
        return Server(metrics, progress, address, port)
    except OSError as error:
        log.warning(
            "no metrics and no progress: cannot listen on %s:%d (%s);"
            " set DREAMBOOTH_METRICS_PORT to a free port",
            address,
            port,
            error,
        )
        return None
