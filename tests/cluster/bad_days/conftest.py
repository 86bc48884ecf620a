"""A control plane with two pretend nodes for all bad days, and an operator for each of them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from tests.cluster.apiserver.server import DoubleClient
from tests.cluster.bad_days.day import Day
from tests.cluster.bad_days.definition import ensure_definition
from tests.cluster.bad_days.gateway import Gateway
from tests.cluster.control_plane import ControlPlane, control_plane
from tests.cluster.pretend import NAMESPACES, NODES, PretendCluster, pretend_cluster
from tests.e2e.operator_process import Operator

RESYNC_SECONDS = 2
NODE_NAMES = ("node-a", "node-b")
IMAGE = "dreambooth/trainer:pretended"


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """The control plane: Kubernetes' own with KUBEBUILDER_ASSETS, else the double."""
    with control_plane(tmp_path_factory.mktemp("plane")) as plane:
        if plane.external:
            pytest.skip("these days are not for someone's cluster: unset DREAMBOOTH_E2E_KUBECONFIG")
        yield plane


@pytest.fixture(scope="session")
def session_cluster(plane: ControlPlane) -> Iterator[PretendCluster]:
    """The cluster, with two pretend nodes."""
    with pretend_cluster(plane.kubeconfig) as cluster:
        for name in NODE_NAMES:
            cluster.add_node(name)
        yield cluster


@pytest.fixture
def cluster(session_cluster: PretendCluster) -> PretendCluster:
    """The cluster. Its nodes are well, even if a test before was so busy that they fell silent."""
    for name in NODE_NAMES:
        if session_cluster.get(f"{NODES}/{name}")["spec"].get("taints"):
            session_cluster.lose(name)
            session_cluster.find_again(name)
    session_cluster.wait(
        lambda: not any(node["spec"].get("taints") for node in session_cluster.items(NODES))
    )
    return session_cluster


@pytest.fixture
def double(plane: ControlPlane) -> Iterator[DoubleClient]:
    """What only the double can be asked for; every fault ends with the test."""
    if plane.real:
        pytest.skip("needs the double of the API server, which fails on request")
    double = DoubleClient(plane.url)
    yield double
    double.heal()


@pytest.fixture
def namespace(plane: ControlPlane, cluster: PretendCluster) -> Iterator[str]:
    """A namespace of its own for each test, deleted afterwards."""
    name = f"bad-day-{secrets.token_hex(3)}"
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
    """Of the operator: it goes through the gateway."""
    return kubeconfig_through(gateway, plane, tmp_path / "kubeconfig")


@pytest.fixture
def program() -> Sequence[str]:
    """What runs the operator: a module and its arguments."""
    return ("dreambooth_operator.controller",)


@pytest.fixture
def stopped_day(
    cluster: PretendCluster,
    namespace: str,
    kubeconfig: Path,
    gateway: Gateway,
    program: Sequence[str],
    tmp_path: Path,
) -> Iterator[Day]:
    """A day whose operator has not been started."""
    ensure_definition(cluster)
    operator = Operator(kubeconfig, tmp_path, IMAGE, program)
    operator.configure(
        trainerImage=IMAGE,
        namespaces=[namespace],
        progressSeconds=1,
        resyncSeconds=RESYNC_SECONDS,
    )
    day = Day(cluster, namespace, operator, gateway)
    yield day
    gateway.heal()
    operator.stop()
    day.close()


@pytest.fixture
def day(stopped_day: Day) -> Day:
    """A day whose operator runs."""
    stopped_day.start()
    return stopped_day


def kubeconfig_through(gateway: Gateway, plane: ControlPlane, path: Path) -> Path:
    """A kubeconfig that leads through a gateway."""
    config = yaml.safe_load(plane.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = gateway.url
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(config))
    return path
