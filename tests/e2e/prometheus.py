"""A real Prometheus that finds its targets as the chart's monitors say."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from tests.charts.rendering import Rendered
from tests.cluster.client import Object
from tests.cluster.kubectl import Kubectl
from tests.cluster.processes import Daemon
from tests.ports import free_ports

READY_SECONDS = 30.0
INTERVAL = "1s"
META = "__meta_kubernetes_pod"


class RefusedError(AssertionError):
    """Prometheus refuses a query; the message says why."""


class Prometheus:
    """Scrapes and answers until `stop`. Everything it keeps is in `folder`."""

    def __init__(self, folder: Path, configuration: Object) -> None:
        folder.mkdir(exist_ok=True)
        file = folder / "prometheus.yaml"
        file.write_text(yaml.safe_dump(configuration))
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        command = [
            "prometheus",
            f"--config.file={file}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=warn",
        ]
        self._process = Daemon("prometheus", command, folder / "log", {"PATH": "/usr/bin:/bin"})
        self._process.wait_ready(self._ready, READY_SECONDS)

    def stop(self) -> None:
        """End it."""
        self._process.stop()

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer of the HTTP API; raises `RefusedError`."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=20) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise RefusedError(f"{parameters}: {error.read().decode()}") from error

    def ask(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """Labels and values of an instant query."""
        result = self.get("query", query=expr)["result"]
        return [(each["metric"], float(each["value"][1])) for each in result]

    def ask_since(self, began: float, expr: str) -> list[float]:
        """All values of a query from a Unix time until now, a second apart."""
        asked = {"query": expr, "start": str(began), "end": str(time.time()), "step": "1"}
        result = self.get("query_range", **asked)["result"]
        return [float(value) for each in result for _, value in each["values"]]

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@contextmanager
def pod_discovery(kubectl: Kubectl) -> Iterator[str]:
    """Serve the pods of a cluster by Prometheus' HTTP service discovery; yields the URL.

    Debian's Prometheus is built without Kubernetes service discovery.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            pods = json.loads(kubectl("get", "pods", "--all-namespaces", "--output=json"))["items"]
            targets = [target for pod in pods for target in _targets(pod)]
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(targets).encode())

        def log_message(self, format: str, *args: object) -> None:
            """Not worth a line."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def _targets(pod: Object) -> Iterator[Object]:
    """A target for each port of a pod that has an address (Prometheus, kubernetes_sd, role pod)."""
    meta, status = pod["metadata"], pod["status"]
    labels = {f"{META}_label_{_meta(name)}": text for name, text in meta["labels"].items()}
    labels |= {
        "__meta_kubernetes_namespace": meta["namespace"],
        f"{META}_name": meta["name"],
        f"{META}_phase": status.get("phase", ""),
    }
    for container in pod["spec"]["containers"] if status.get("podIP") else ():
        for port in container.get("ports", []):
            own = {
                f"{META}_container_name": container["name"],
                f"{META}_container_port_name": port["name"],
            }
            address = f"{status['podIP']}:{port['containerPort']}"
            yield {"targets": [address], "labels": labels | own}


def configuration(rendered: Rendered, pods: str, operator: str, rules: Path) -> Object:
    """The Prometheus configuration that the Prometheus operator makes of the chart's objects.

    `pods` is the URL of their service discovery, `operator` is host:port of the operator.

    The operator of the tests is a process beside the cluster, so no Endpoints lead to it: its
    target is named, with the labels that it would be discovered with.
    """
    rules.write_text(yaml.safe_dump(rendered.one("PrometheusRule")["spec"]))
    return {
        "global": {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL},
        "rule_files": [str(rules)],
        "scrape_configs": [
            *_of_pods(rendered.one("PodMonitor"), pods),
            *_of_service(rendered.one("ServiceMonitor"), rendered.one("Service"), operator),
        ],
    }


def _of_pods(monitor: Object, discovery: str) -> list[Object]:
    """The jobs of a PodMonitor."""
    name = f"{monitor['metadata']['namespace']}/{monitor['metadata']['name']}"
    return [
        {
            "job_name": f"podMonitor/{name}/{number}",
            "http_sd_configs": [{"url": discovery, "refresh_interval": "2s"}],
            "honor_labels": endpoint.get("honorLabels", False),
            "relabel_configs": [
                *_selection(monitor["spec"]["selector"]["matchLabels"]),
                _label("namespace", "__meta_kubernetes_namespace"),
                _label("container", f"{META}_container_name"),
                _label("pod", f"{META}_name"),
                {"target_label": "job", "replacement": name},
                *(_prometheus(each) for each in endpoint.get("relabelings", [])),
            ],
            "metric_relabel_configs": [
                _prometheus(each) for each in endpoint.get("metricRelabelings", [])
            ],
            "sample_limit": monitor["spec"].get("sampleLimit", 0),
        }
        for number, endpoint in enumerate(monitor["spec"]["podMetricsEndpoints"])
    ]


def _selection(labels: Mapping[str, str]) -> Sequence[Object]:
    """Pods with these labels that have not ended."""
    ended = {"action": "drop", "source_labels": [f"{META}_phase"], "regex": "(Failed|Succeeded)"}
    chosen = [
        {"action": "keep", "source_labels": [f"{META}_label_{_meta(name)}"], "regex": value}
        for name, value in labels.items()
    ]
    return [ended, *chosen]


def _of_service(monitor: Object, service: Object, address: str) -> list[Object]:
    """The jobs of a ServiceMonitor."""
    labels = {"namespace": service["metadata"]["namespace"], "service": service["metadata"]["name"]}
    return [
        {
            "job_name": f"serviceMonitor/{monitor['metadata']['name']}/{number}",
            "static_configs": [{"targets": [address], "labels": labels}],
            "honor_labels": endpoint.get("honorLabels", False),
            "relabel_configs": [{"target_label": "job", "replacement": labels["service"]}],
        }
        for number, endpoint in enumerate(monitor["spec"]["endpoints"])
    ]


def _label(name: str, source: str) -> Object:
    return {"source_labels": [source], "target_label": name}


def _prometheus(relabeling: Object) -> Object:
    """A relabeling of a monitor as Prometheus spells it."""
    spelt = {"sourceLabels": "source_labels", "targetLabel": "target_label"}
    return {spelt.get(name, name): value for name, value in relabeling.items()}


def _meta(label: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in label)
