"""Clusters without containers, on which controllers are tested: Kubernetes' own, and ours."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cluster.apiserver.server import ApiServerDouble
from tests.cluster.client import tolerate
from tests.cluster.envtest import READY_SECONDS, EnvtestPlane, answers
from tests.cluster.fake_cluster import NAMESPACES, FakeCluster, fake_cluster
from tests.cluster.kubectl import Kubectl
from tests.cluster.processes import Daemon

ROOT = Path(__file__).parents[2]
CRD = ROOT / "crds" / "dreambooth.dev_dreamboothjobs.yaml"
NODES = ("node-a", "node-b")


def _kubernetes(folder: Path, processes: ExitStack) -> None:
    EnvtestPlane(_binaries(), folder).start(processes)


def _controllers_on_kubernetes(folder: Path, processes: ExitStack) -> None:
    EnvtestPlane(_binaries(), folder).start_server(processes)
    _start_module("controllers", folder, processes, "--node-grace-seconds=4")


def _controllers_on_the_double(folder: Path, processes: ExitStack) -> None:
    server = _start_module("apiserver", folder, processes, "--port=0")
    server.wait_ready(lambda: answers(folder / "kubeconfig"), READY_SECONDS)
    _start_module("controllers", folder, processes, "--node-grace-seconds=4")


PLANES: dict[str, Callable[[Path, ExitStack], None]] = {
    "kubernetes": _kubernetes,
    "ours-on-kubernetes": _controllers_on_kubernetes,
    "ours-on-the-double": _controllers_on_the_double,
}
"""The first is the truth: a test that holds there has to hold on the others, as it is."""


@pytest.fixture(
    scope="session",
    # test_apiserver_differential.py says once for all what is left out without them.
    params=PLANES if "KUBEBUILDER_ASSETS" in os.environ else ["ours-on-the-double"],
)
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FakeCluster]:
    """A cluster with the two fake nodes of `NODES`."""
    folder = tmp_path_factory.mktemp(request.param)
    with ExitStack() as processes:
        PLANES[request.param](folder, processes)
        with fake_cluster(folder / "kubeconfig") as cluster:
            for node in NODES:
                cluster.add_node(node)
            yield cluster


@pytest.fixture
def namespace(cluster: FakeCluster) -> Iterator[str]:
    """A namespace of its own for each test, deleted afterwards."""
    name = f"test-{secrets.token_hex(3)}"
    cluster.create(NAMESPACES, {"metadata": {"name": name}})
    with tolerate(409):  # only Kubernetes' own controllers make one, which its pods need
        account = {"metadata": {"name": "default"}}
        cluster.create(f"{NAMESPACES}/{name}/serviceaccounts", account)
    yield name
    cluster.delete(f"{NAMESPACES}/{name}")


@pytest.fixture(
    scope="module",
    params=["double", "kubernetes"] if "KUBEBUILDER_ASSETS" in os.environ else ["double"],
)
def kubectl(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kubectl]:
    """An API server that serves DreamBoothJobs, through kubectl; nothing reconciles them."""
    folder = tmp_path_factory.mktemp("kubectl")
    kubeconfig = folder / "kubeconfig"
    with ExitStack() as stack:
        if request.param == "kubernetes":
            EnvtestPlane(_binaries(), folder).start_server(stack)
        else:
            stack.enter_context(ApiServerDouble()).write_kubeconfig(kubeconfig)
        found = Kubectl(kubeconfig)
        found.apply_definition(CRD)
        yield found


def _binaries() -> Path:
    return Path(os.environ["KUBEBUILDER_ASSETS"])


def _start_module(name: str, folder: Path, processes: ExitStack, *options: str) -> Daemon:
    command = [sys.executable, "-m", f"tests.cluster.{name}"]
    command += ["--kubeconfig", str(folder / "kubeconfig"), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    daemon = Daemon(name, command, folder / f"{name}.log", environment)
    processes.callback(daemon.kill)
    return daemon
