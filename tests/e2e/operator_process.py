"""The operator as a process, as its image runs it."""

from __future__ import annotations

import os
import signal
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from dreambooth_operator.controller.app import permissions
from dreambooth_operator.manifests.serialize import to_yaml
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubectl import Kubectl
from tests.cluster.processes import Daemon, tail
from tests.ports import free_ports

READY_SECONDS = 60.0
NAMESPACE = "dreambooth-operator"


class Operator:
    """Starts, stops and kills the operator. All starts write to one log."""

    def __init__(
        self,
        kubeconfig: Path,
        folder: Path,
        image: str,
        program: Sequence[str] = ("dreambooth_operator.controller",),
    ) -> None:
        self._program = program
        self._kubeconfig = kubeconfig
        self._settings = folder / "operator.yaml"
        self.log = folder / "operator.log"
        (self._port,) = free_ports(1)
        self._process: Daemon | None = None
        self.configure(
            trainerImage=image,
            namespaces=[],
            progressSeconds=1,
            resyncSeconds=60,
            imagePullGraceSeconds=5,
            configGraceSeconds=5,
        )

    def configure(self, **settings: Any) -> None:
        """Write the settings of the next start."""
        self._settings.write_text(yaml.safe_dump({"metricsPort": self._port} | settings))

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.alive

    @property
    def pid(self) -> int:
        """The process id of the running operator."""
        assert self._process is not None, "start it first"
        return self._process.pid

    @property
    def url(self) -> str:
        """Where /metrics, /healthz and /readyz are."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it and return once it is ready; a running one is left alone."""
        if self.running:
            return
        process = self.launch()
        process.wait_ready(lambda: answers(f"{self.url}/readyz"), READY_SECONDS)

    def launch(self) -> Daemon:
        """Start it, and do not wait until it is ready."""
        command = [sys.executable, "-m", *self._program, "--settings", str(self._settings)]
        environment = {**os.environ, "KUBECONFIG": str(self._kubeconfig), "PYTHONUNBUFFERED": "1"}
        self._process = Daemon("operator", command, self.log, environment)
        return self._process

    def stop(self) -> None:
        """Ask it to end, as a Deployment does."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """End it without a warning."""
        if self._process is not None:
            self._process.kill()

    def restart(self) -> None:
        """Kill it and start it again."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Make it stand still."""
        assert self._process is not None
        self._process.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.signal(signal.SIGCONT)

    def tail(self, lines: int = 40) -> str:
        """The end of the log."""
        return tail(self.log, lines)

    def metrics(self) -> str:
        """Its metrics, in the Prometheus text format."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as answer:
            text: str = answer.read().decode()
            return text

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels; 0 when there are none."""
        families = text_string_to_metric_families(self.metrics())
        samples = [sample for family in families for sample in family.samples]
        return sum(
            sample.value
            for sample in samples
            if sample.name == f"dreambooth_operator_{name}"
            and labels.items() <= sample.labels.items()
        )


def service_account(
    plane: ControlPlane, folder: Path, namespace: str = NAMESPACE, watched: Sequence[str] = ()
) -> Path:
    """A kubeconfig with the rights that the operator's own manifests give it, and no others.

    Makes the namespace of the operator; it may do nothing outside the watched ones when some are.
    """
    kubectl = Kubectl(plane.kubeconfig)
    kubectl.create_namespace(namespace)
    kubectl("apply", "-f", "-", input=to_yaml(permissions.manifests(namespace, watched)))
    asked = ("create", "token", permissions.NAME, f"--namespace={namespace}", "--duration=24h")
    token = kubectl(*asked).strip()
    config = yaml.safe_load(plane.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    path = folder / "kubeconfig"
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(config))
    return path


def answers(url: str) -> bool:
    """Whether a GET of the URL is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
