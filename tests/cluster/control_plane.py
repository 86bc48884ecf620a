"""A Kubernetes control plane for the tests: someone's cluster, real binaries, or the double.

`DREAMBOOTH_E2E_KUBECONFIG` names a cluster that is there already. `KUBEBUILDER_ASSETS` names a
folder with etcd, kube-apiserver, kube-controller-manager and kube-scheduler (as `setup-envtest`
downloads the first two). Without either, the double of this folder is started.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.envtest import (
    NODE_GRACE_SECONDS,
    READY_SECONDS,
    TOLERATION_SECONDS,
    EnvtestPlane,
    answers,
)
from tests.cluster.processes import Daemon

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class ControlPlane:
    """A running API server with its controllers."""

    kubeconfig: Path
    """Grants everything."""
    url: str
    real: bool
    """Kubernetes itself, not the double."""
    external: bool
    """Someone's cluster: it has nodes of its own, and is left as it was found."""
    folder: Path
    """Logs of what was started here."""
    server: Daemon | None
    """The API server's process, unless it is someone's."""
    _processes: ExitStack

    def close(self) -> None:
        """Stop what was started here."""
        self._processes.close()


@contextmanager
def control_plane(folder: Path | None = None) -> Iterator[ControlPlane]:
    """The control plane that the environment names, or the double; stopped at the end.

    Its data and logs go to `folder`, else to a folder that is removed at the end. Enter it from
    the main thread. Raises `NotReadyError` with the end of a log when it does not start.
    """
    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cluster-")))
        folder.mkdir(parents=True, exist_ok=True)
        plane = _start(folder, stack.enter_context(ExitStack()))
        yield plane


def _start(folder: Path, processes: ExitStack) -> ControlPlane:
    named = os.environ.get("DREAMBOOTH_E2E_KUBECONFIG")
    binaries = os.environ.get("KUBEBUILDER_ASSETS")
    kubeconfig = Path(named) if named else folder / "kubeconfig"
    server = None
    if not named:
        plane = EnvtestPlane(Path(binaries), folder) if binaries else _Double(folder)
        server = plane.start(processes)
    return ControlPlane(
        kubeconfig=kubeconfig,
        url=_server(kubeconfig),
        real=bool(named or binaries),
        external=bool(named),
        folder=folder,
        server=server,
        _processes=processes,
    )


def _server(kubeconfig: Path) -> str:
    """The address of the current context's cluster."""
    config: dict[str, Any] = yaml.safe_load(kubeconfig.read_text())
    contexts = {item["name"]: item["context"] for item in config["contexts"]}
    clusters = {item["name"]: item["cluster"] for item in config["clusters"]}
    url: str = clusters[contexts[config["current-context"]]["cluster"]]["server"]
    return url


class _Double:
    """The double of the API server, and the controllers beside it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kubeconfig = folder / "kubeconfig"

    def start(self, processes: ExitStack) -> Daemon:
        """Start both and return the API server once it is ready; `processes` ends them."""
        server = self._run(
            processes, "apiserver", "--port=0", f"--toleration-seconds={TOLERATION_SECONDS}"
        )
        server.wait_ready(lambda: answers(self._kubeconfig), READY_SECONDS)
        self._run(processes, "controllers", f"--node-grace-seconds={NODE_GRACE_SECONDS}")
        return server

    def _run(self, processes: ExitStack, name: str, *arguments: str) -> Daemon:
        module = f"tests.cluster.{name}"
        command = [sys.executable, "-m", module, "--kubeconfig", str(self._kubeconfig), *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        log = self._folder / f"{name}.log"
        daemon = Daemon(name, command, log, environment, when_orphaned=signal.SIGKILL)
        processes.callback(daemon.kill)
        return daemon
