"""The operator as a process: it creates children, and stops without affecting them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.charts.rendering import render, values_of
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubectl import Kubectl, eventually
from tests.cluster.processes import Daemon
from tests.operator.controller.parts import job_body

SETTINGS = "{trainerImage: trainer:1, metricsPort: 0, namespaces: [NAMESPACE], log: {json: true}}"


class Operator:
    """A running operator of one namespace."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    @property
    def url(self) -> str:
        found = re.search(r"on port (\d+)", self.daemon.log.read_text())
        return f"http://127.0.0.1:{found[1]}" if found else "http://127.0.0.1:1"

    def ready(self) -> bool:
        """Whether its readiness probe succeeds."""
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def writes(self) -> dict[str, float]:
        """Number of its writing requests, by labels."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        found = re.findall(r"^dreambooth_operator_api_requests_total({.*}) (.*)$", text, re.M)
        return {labels: float(count) for labels, count in found if _changes(labels)}


def _changes(labels: str) -> bool:
    return not any(f'verb="{verb}"' in labels for verb in ("get", "watch"))


def _quiet(operator: Operator, seconds: float) -> bool:
    """Whether it writes nothing for so many seconds."""
    before = operator.writes()
    return not eventually(lambda: operator.writes() != before, seconds)


@contextmanager
def _operator(
    plane: ControlPlane, namespace: str, folder: Path, *, ready: bool = True
) -> Iterator[Operator]:
    settings = folder / "settings.yaml"
    settings.write_text(SETTINGS.replace("NAMESPACE", namespace))
    log = folder / "operator.log"
    log.unlink(missing_ok=True)
    command = [sys.executable, "-W", "error", "-m", "dreambooth_operator.controller"]
    environment = {**os.environ, "KUBECONFIG": str(plane.kubeconfig)}
    daemon = Daemon("operator", [*command, "--settings", str(settings)], log, environment)
    try:
        operator = Operator(daemon)
        if ready:
            daemon.wait_ready(operator.ready, 60)
        yield operator
    finally:
        daemon.kill()


def test_job_becomes_children_and_a_restart_writes_nothing(
    plane: ControlPlane, kubectl: Kubectl, namespace: str, tmp_path: Path
) -> None:
    with _operator(plane, namespace, tmp_path) as operator:
        kubectl("apply", "-f", "-", input=json.dumps(job_body(namespace, "mug")))
        assert eventually(lambda: kubectl.get("job", "mug-preflight") is not None)
        job = kubectl.get("dbj", "mug")
        assert job is not None
        assert "finalizers" not in job["metadata"]
        assert not [name for name in job["metadata"]["annotations"] if "kopf" in name]
        assert eventually(lambda: "Preflight" in kubectl("get", "dbj", "mug"))
        assert eventually(lambda: _quiet(operator, seconds=2))
        operator.daemon.signal(signal.SIGTERM)
        assert eventually(lambda: not operator.daemon.alive, seconds=15)
        assert operator.daemon.returncode == 0
    assert kubectl.get("job", "mug-preflight") is not None
    lines = operator.daemon.log.read_text().splitlines()
    assert {json.loads(line)["level"] for line in lines} == {"info"}
    with _operator(plane, namespace, tmp_path) as operator:
        assert not eventually(lambda: operator.writes() != {}, seconds=3)


def test_operator_is_ready_before_the_kubelet_first_asks(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """A probe that fails before would post an Unhealthy event at each normal start."""
    (container,) = render(values_of("minimal")).pod["spec"]["containers"]
    probes = [container["livenessProbe"], container["readinessProbe"]]
    delay = min(probe.get("initialDelaySeconds", 0) for probe in probes)

    def seconds_to_start() -> float:
        started = time.monotonic()
        with _operator(plane, namespace, tmp_path):
            return time.monotonic() - started

    # On a busy machine one start may take long.
    assert any(seconds_to_start() < delay for _ in range(3))


def test_deleted_child_is_created_again(
    plane: ControlPlane, kubectl: Kubectl, namespace: str, tmp_path: Path
) -> None:
    with _operator(plane, namespace, tmp_path):
        kubectl("apply", "-f", "-", input=json.dumps(job_body(namespace, "mug")))
        assert eventually(lambda: kubectl.get("job", "mug-preflight") is not None)
        first = kubectl.get("job", "mug-preflight")
        assert first is not None
        kubectl("delete", "job", "mug-preflight", "--wait=false")

        def replaced() -> bool:
            now = kubectl.get("job", "mug-preflight")
            return now is not None and now["metadata"]["uid"] != first["metadata"]["uid"]

        assert eventually(replaced)


def test_other_namespaces_are_not_watched(
    plane: ControlPlane, kubectl: Kubectl, namespace: str, tmp_path: Path
) -> None:
    with _operator(plane, "elsewhere", tmp_path) as operator:
        kubectl("apply", "-f", "-", input=json.dumps(job_body(namespace, "mug")))
        assert not eventually(lambda: operator.writes() != {}, seconds=2)
    assert kubectl.get("job", "mug-preflight") is None


def test_operator_waits_for_an_unreachable_api_server_and_stops_on_sigterm(
    plane: ControlPlane, tmp_path: Path
) -> None:
    unreachable = tmp_path / "kubeconfig"
    unreachable.write_text(plane.kubeconfig.read_text().replace(plane.url, "http://127.0.0.1:1"))
    elsewhere = replace(plane, kubeconfig=unreachable)
    with _operator(elsewhere, "default", tmp_path, ready=False) as operator:
        assert eventually(lambda: "not started yet" in operator.daemon.tail())
        assert not operator.ready()
        operator.daemon.signal(signal.SIGTERM)
        assert eventually(lambda: not operator.daemon.alive, seconds=15)
        assert operator.daemon.returncode == 0


@pytest.mark.parametrize("text", ["{}", "{trainerImage: a, worker: 3}"])
def test_invalid_settings_end_it_with_one_line(tmp_path: Path, text: str) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text(text)
    command = [sys.executable, "-m", "dreambooth_operator.controller", "--settings", str(settings)]
    daemon = Daemon("operator", command, tmp_path / "log", os.environ)
    assert eventually(lambda: not daemon.alive)
    assert daemon.returncode == 1
    assert len(daemon.tail().splitlines()) == 1


def test_port_in_use_is_an_error(plane: ControlPlane, tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as taken:
        settings = tmp_path / "settings.yaml"
        port = taken.getsockname()[1]
        settings.write_text(f"{{trainerImage: trainer:1, metricsPort: {port}}}")
        command = [sys.executable, "-m", "dreambooth_operator.controller", "--settings"]
        daemon = Daemon("operator", [*command, str(settings)], tmp_path / "log", os.environ)
        assert eventually(lambda: not daemon.alive)
    assert f"metricsPort: {port} cannot be used" in daemon.tail()
