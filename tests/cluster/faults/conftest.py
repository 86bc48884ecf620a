"""One control plane with two fake nodes for all tests here, and one operator for each test."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from tests.cluster.apiserver.server import DoubleClient
from tests.cluster.control_plane import ControlPlane, control_plane
from tests.cluster.fake_cluster import NAMESPACES, NODES, FakeCluster, fake_cluster
from tests.cluster.faults.crd import ensure_definition
from tests.cluster.faults.gateway import Gateway
from tests.cluster.faults.harness import Harness
from tests.e2e.operator_process import Operator

RESYNC_SECONDS = 2
NODE_NAMES = ("node-a", "node-b")
IMAGE = "dreambooth/trainer:fake"


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """The control plane: Kubernetes' own with KUBEBUILDER_ASSETS, else the double."""
    with control_plane(tmp_path_factory.mktemp("plane")) as plane:
        if plane.external:
            pytest.skip(
                "faults are not injected into an external cluster: unset DREAMBOOTH_E2E_KUBECONFIG"
            )
        yield plane


@pytest.fixture(scope="session")
def session_cluster(plane: ControlPlane) -> Iterator[FakeCluster]:
    """The cluster with two fake nodes."""
    with fake_cluster(plane.kubeconfig) as cluster:
        for name in NODE_NAMES:
            cluster.add_node(name)
        yield cluster


@pytest.fixture
def cluster(session_cluster: FakeCluster) -> FakeCluster:
    """The cluster with both nodes Ready, even if an earlier test starved their heartbeats."""
    session_cluster.wait(
        lambda: not any(node["spec"].get("taints") for node in session_cluster.items(NODES))
    )
    return session_cluster


@pytest.fixture
def double(plane: ControlPlane) -> Iterator[DoubleClient]:
    """The double's fault injection. Every fault ends with the test."""
    if plane.real:
        pytest.skip("needs the double of the API server, which can inject faults")
    double = DoubleClient(plane.url)
    yield double
    double.heal()


@pytest.fixture
def namespace(plane: ControlPlane, cluster: FakeCluster) -> Iterator[str]:
    """A namespace of its own for each test, deleted afterwards."""
    name = f"faults-{secrets.token_hex(3)}"
    cluster.create(NAMESPACES, {"metadata": {"name": name}})
    account = f"{NAMESPACES}/{name}/serviceaccounts/default"
    if plane.real:  # it refuses pods before their service account is there
        cluster.wait(lambda: cluster.find(account))
    yield name
    cluster.delete(f"{NAMESPACES}/{name}")


@pytest.fixture
def gateway(plane: ControlPlane) -> Iterator[Gateway]:
    """The network between the operator and the API server."""
    with Gateway(plane.url) as gateway:
        yield gateway


@pytest.fixture
def kubeconfig(plane: ControlPlane, gateway: Gateway, tmp_path: Path) -> Path:
    """The operator's kubeconfig, which goes through the gateway."""
    return kubeconfig_through(gateway, plane, tmp_path / "kubeconfig")


@pytest.fixture
def program() -> Sequence[str]:
    """What runs the operator: a module and its arguments."""
    return ("dreambooth_operator.controller",)


@pytest.fixture
def stopped_harness(
    cluster: FakeCluster,
    namespace: str,
    kubeconfig: Path,
    gateway: Gateway,
    program: Sequence[str],
    tmp_path: Path,
) -> Iterator[Harness]:
    """A harness whose operator is not running yet."""
    ensure_definition(cluster)
    operator = Operator(kubeconfig, tmp_path, IMAGE, program)
    operator.configure(
        trainerImage=IMAGE,
        namespaces=[namespace],
        progressSeconds=1,
        resyncSeconds=RESYNC_SECONDS,
    )
    harness = Harness(cluster, namespace, operator, gateway)
    yield harness
    gateway.heal()
    operator.stop()
    harness.close()


@pytest.fixture
def harness(stopped_harness: Harness) -> Harness:
    """A harness with a running operator."""
    stopped_harness.start()
    return stopped_harness


def kubeconfig_through(gateway: Gateway, plane: ControlPlane, path: Path) -> Path:
    """Write a kubeconfig whose server is the gateway."""
    config = yaml.safe_load(plane.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = gateway.url
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(config))
    return path
