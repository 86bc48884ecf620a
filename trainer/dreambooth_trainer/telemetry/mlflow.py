"""MLflow, by its REST API (https://mlflow.org/docs/latest/rest-api.html, version 2.0).

MLflow's own client would pin dozens of packages, and makes training wait for its server. Here, a
thread sends what has been logged; while the server is down, it keeps it and tries again. What the
server refuses is dropped, since it would be refused again.
"""

import base64
import io
import json
import logging
import math
import os
import re
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

from PIL import Image

from dreambooth_api.contract import environment
from dreambooth_api.models.results.tracking import MLflow as Settings

log = logging.getLogger(__name__)

T = TypeVar("T")

RUN_TAG = "dreambooth.uid"
"""The tag by which a later attempt finds the run."""
TIMEOUT_SECONDS = 15
RETRY_SECONDS = 10.0
SEND_SECONDS = 2.0
"""Between two batches of metrics."""
CLOSE_SECONDS = 30.0
"""For what is not sent yet when the run ends."""
METRICS_PER_REQUEST, PARAMS_PER_REQUEST = 1000, 100
"""The API's limits."""
MOST_KEPT = 100_000
"""Metrics and images that wait for the server; older ones are dropped."""
PARAM_LENGTH = 500
MAY_PASS = {
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
}
"""Statuses from 400 to 499 that do not depend on what is sent: it is kept, and sent again."""
NOT_IN_KEYS = re.compile(r"[^A-Za-z0-9_./ -]")
PROXY = "mlflow-artifacts:/"
"""Scheme of artifacts that the server itself stores."""


class MLflow:
    """A run of an experiment; nothing here waits for the server but `close`, a while.

    Args:
        settings: `spec.tracking.mlflow`.
        run_id: The same over all attempts, so that they continue one run.
        name: Of the run, for people.
        config: The resolved job, without secrets: the run's parameters.
    """

    def __init__(
        self, settings: Settings, run_id: str, name: str, config: Mapping[str, Any]
    ) -> None:
        self._settings, self._run_id, self._name, self._config = settings, run_id, name, config
        self._metrics: deque[dict[str, Any]] = deque(maxlen=MOST_KEPT)
        self._images: deque[tuple[str, bytes]] = deque(maxlen=100)
        self._run: Mapping[str, Any] | None = None
        self._is_down = False
        self._warned: set[str] = set()
        self._lock = threading.Lock()
        """Held while `_metrics` and `_images` change."""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._send_all, name="mlflow", daemon=True)
        self._thread.start()

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Keep the scalars, to be sent."""
        now = round(time.time() * 1000)
        values = [
            {"key": NOT_IN_KEYS.sub("_", name), "value": value, "timestamp": now, "step": step}
            for name, value in scalars.items()
            if math.isfinite(value)
        ]
        with self._lock:
            self._metrics.extend(values)

    def images(self, step: int, grid: Image.Image) -> None:
        """Keep the grid, to be sent as the artifact `samples/step-N.png`."""
        png = io.BytesIO()
        grid.save(png, "PNG")
        with self._lock:
            self._images.append((f"samples/step-{step:08}.png", png.getvalue()))

    def sync(self) -> None:
        """Do nothing: it is sent in the background."""

    def close(self, *, succeeded: bool) -> None:
        """Send the rest, and end the run."""
        self._closing.set()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            raise TimeoutError(f"{len(self._metrics)} values were not sent")
        if self._run is None or self._is_down:
            raise ConnectionError(f"{len(self._metrics)} values were not sent")
        self._update("FINISHED" if succeeded else "FAILED", round(time.time() * 1000))

    def _send_all(self) -> None:
        """Send what is kept, until the run ends."""
        while True:
            last = self._closing.is_set()
            try:
                self._send()
                if self._is_down:
                    log.info("MLflow answers again")
                self._is_down = False
            except Exception as error:
                if not self._is_down:
                    log.warning(
                        "MLflow: %s cannot be logged to (%s); the training goes on, and it is tried"
                        " again",
                        *(self._settings.tracking_uri, describe(error)),
                    )
                self._is_down = True
            if last:
                return
            self._closing.wait(RETRY_SECONDS if self._is_down else SEND_SECONDS)

    def _send(self) -> None:
        if self._run is None:
            self._run = self._open_run()
        run_id = self._run["run_id"]
        while batch := self._take(self._metrics, METRICS_PER_REQUEST):
            with self._giving_back(self._metrics, batch), self._dropping_refused("metrics"):
                self._post("runs/log-batch", {"run_id": run_id, "metrics": batch})
        while images := self._take(self._images, 1):
            with self._giving_back(self._images, images), self._dropping_refused("samples"):
                self._upload(*images[0])

    def _take(self, kept: deque[T], most: int) -> list[T]:
        """The oldest that are kept."""
        with self._lock:
            return [kept.popleft() for _ in range(min(most, len(kept)))]

    @contextmanager
    def _giving_back(self, kept: deque[T], taken: list[T]) -> Iterator[None]:
        """Within, an error puts back what was taken."""
        try:
            yield
        except Exception:
            with self._lock:
                kept.extendleft(reversed(taken))
            raise

    @contextmanager
    def _dropping_refused(self, what: str) -> Iterator[None]:
        """Within, what the server refuses is left out, with one warning for each kind of it."""
        try:
            yield
        except HTTPError as error:
            if not is_refusal(error.code):
                raise
            self._warn_once(
                what,
                f"{self._settings.tracking_uri} refuses {what} of run {self._name!r}, experiment"
                f" {self._settings.experiment!r} ({describe(error)}); what it refuses is not"
                " logged, and the training goes on",
            )

    def _warn_once(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            log.warning("MLflow: %s", message)
        self._warned.add(kind)

    def _open_run(self) -> Mapping[str, Any]:
        """The run of an earlier attempt, or a new one."""
        experiment = self._experiment()
        where = {"experiment_ids": [experiment], "max_results": 1}
        query = f"tags.`{RUN_TAG}` = '{self._run_id}'"
        found = self._post("runs/search", {**where, "filter": query}).get("runs")
        if found:
            info: Mapping[str, Any] = found[0]["info"]
            self._run = info
            self._update("RUNNING")
            return info
        tags = {RUN_TAG: self._run_id, "mlflow.runName": self._name}
        created = {
            "experiment_id": experiment,
            "run_name": self._name,
            "start_time": round(time.time() * 1000),
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
        }
        info = self._post("runs/create", created)["run"]["info"]
        params = [
            {"key": NOT_IN_KEYS.sub("_", key)[:250], "value": value[:PARAM_LENGTH]}
            for key, value in flatten(self._config)
        ]
        for start in range(0, len(params), PARAMS_PER_REQUEST):
            batch = params[start : start + PARAMS_PER_REQUEST]
            with self._dropping_refused("parameters"):
                self._post("runs/log-batch", {"run_id": info["run_id"], "params": batch})
        return info

    def _experiment(self) -> str:
        name = self._settings.experiment
        try:
            found = self._request(
                "GET", f"experiments/get-by-name?{urlencode({'experiment_name': name})}"
            )
            return str(found["experiment"]["experiment_id"])
        except HTTPError as error:
            if error.code != 404:
                raise
        return str(self._post("experiments/create", {"name": name})["experiment_id"])

    def _update(self, status: str, end_time: int | None = None) -> None:
        assert self._run is not None
        ended = {} if end_time is None else {"end_time": end_time}
        self._post("runs/update", {"run_id": self._run["run_id"], "status": status, **ended})

    def _upload(self, path: str, png: bytes) -> None:
        """Store an artifact by the server's proxy; where it has none, it is left out."""
        assert self._run is not None
        uri = str(self._run.get("artifact_uri", ""))
        if not uri.startswith(PROXY):
            self._warn_once(
                "no artifacts",
                "samples are not logged, as the server does not store artifacts itself; start it"
                " with --serve-artifacts",
            )
            return
        folder = uri.removeprefix(PROXY).strip("/")
        self._call("PUT", f"mlflow-artifacts/artifacts/{quote(f'{folder}/{path}')}", png)

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._request("POST", path, json.dumps(body).encode())

    def _request(self, method: str, path: str, body: bytes | None = None) -> Any:
        return json.loads(self._call(method, f"mlflow/{path}", body))

    def _call(self, method: str, path: str, body: bytes | None) -> bytes:
        url = f"{self._settings.tracking_uri.rstrip('/')}/api/2.0/{path}"
        headers = {"Content-Type": "application/json"}
        request = Request(url, data=body, method=method, headers=headers)
        for name, value in authorization().items():
            # Not for another server, to which this one may redirect.
            request.add_unredirected_header(name, value)
        with urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            content: bytes = answer.read()
        return content


def authorization() -> dict[str, str]:
    """The header for the credentials in the environment, as MLflow's own client reads them."""
    if token := os.environ.get(environment.MLFLOW_TRACKING_TOKEN):
        return {"Authorization": f"Bearer {token}"}
    user = os.environ.get(environment.MLFLOW_TRACKING_USERNAME)
    password = os.environ.get(environment.MLFLOW_TRACKING_PASSWORD)
    if user and password:
        encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
        return {"Authorization": f"Basic {encoded}"}
    return {}


def is_refusal(status: int) -> bool:
    """Whether an HTTP status says that the same request will never be accepted."""
    return 400 <= status < 500 and status not in MAY_PASS


def describe(error: Exception) -> str:
    """The error, with what the server says of it."""
    if not isinstance(error, HTTPError):
        return f"{error}"
    said = error.read(500).decode(errors="replace")
    return f"HTTP {error.code}: {' '.join(said.split())}"


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The values of nested objects as text, by their paths: `spec.training.steps`."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from flatten(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from flatten(item, f"{path}.{index}")
    else:
        yield path, str(value)
