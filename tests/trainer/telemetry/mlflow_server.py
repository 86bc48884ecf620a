"""An MLflow server on loopback: the requests of its REST API that a run makes."""

import json
from collections import defaultdict
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.loopback import Handler, running


class MLflowServer(ThreadingHTTPServer):
    """Keeps what was logged."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.metrics: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self.params: dict[str, str] = {}
        self.artifacts: dict[str, bytes] = {}
        self.authorizations: set[str | None] = set()
        self.has_proxy = True
        self.refused: set[str] = set()
        """Kinds of what is answered with 400: `metrics`, `params`, `artifacts`."""
        self.refusals: list[int] = []
        """Of each refused request, how many values it had."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/team"

    def answer(self, path: str, query: dict[str, list[str]], body: dict[str, Any]) -> Any:
        match path:
            case "experiments/get-by-name":
                [name] = query["experiment_name"]
                return {"experiment": {"experiment_id": self.experiments[name]}}
            case "experiments/create":
                self.experiments[body["name"]] = "7"
                return {"experiment_id": "7"}
            case "runs/search":
                _, tag, _, value, _ = body["filter"].replace("`", "'").split("'")
                found = [
                    {"info": run["info"]} for run in self.runs.values() if run["tags"][tag] == value
                ]
                return {"runs": found} if found else {}
            case "runs/create":
                run_id = f"run-{len(self.runs)}"
                scheme = "mlflow-artifacts:" if self.has_proxy else "s3://bucket"
                info = {"run_id": run_id, "artifact_uri": f"{scheme}/7/{run_id}/artifacts"}
                tags = {each["key"]: each["value"] for each in body["tags"]}
                self.runs[run_id] = {"info": info, "tags": tags, "status": "RUNNING"}
                return {"run": self.runs[run_id]}
            case "runs/log-batch":
                assert body["run_id"] in self.runs
                for each in body.get("metrics", []):
                    self.metrics[each["key"]].append((each["step"], each["value"]))
                self.params |= {each["key"]: each["value"] for each in body.get("params", [])}
                return {}
            case "runs/update":
                self.runs[body["run_id"]]["status"] = body["status"]
                return {}
        raise AssertionError(path)


class _Handler(Handler, BaseHTTPRequestHandler):
    server: MLflowServer

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        if "artifacts" in self.server.refused:
            self.body()
            self._refuse(1)
            return
        self.server.artifacts[urlsplit(self.path).path] = self.body()
        self._send(200, {})

    def _answer(self) -> None:
        url = urlsplit(self.path)
        self.server.authorizations.add(self.headers["Authorization"])
        body = self.body()
        path = url.path.removeprefix("/team/api/2.0/mlflow/")
        asked = json.loads(body or b"{}")
        if kinds := self.server.refused & asked.keys():
            self._refuse(sum(len(asked[kind]) for kind in kinds))
            return
        try:
            self._send(200, self.server.answer(path, parse_qs(url.query), asked))
        except KeyError:
            self._send(404, {"error_code": "RESOURCE_DOES_NOT_EXIST"})

    def _refuse(self, values: int) -> None:
        self.server.refusals.append(values)
        self._send(400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "too long"})

    def _send(self, status: int, body: Any) -> None:
        self.send(status, json.dumps(body).encode())


def serve(port: int = 0) -> AbstractContextManager[MLflowServer]:
    """The server, on this port or on one of its own."""
    return running(MLflowServer(port))
