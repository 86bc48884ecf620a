"""One control plane, three nodes, one S3 server and one operator for all scenarios of a session.

Everything is started when the first scenario asks for it. `DREAMBOOTH_E2E_KUBECONFIG` or
`KUBEBUILDER_ASSETS` replace the double of the API server (tests/cluster/README.md).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cluster.client import Object
from tests.cluster.control_plane import ControlPlane, control_plane
from tests.cluster.kubectl import Kubectl, eventually
from tests.cluster.node.registration import PROCESS_NODE_LABEL
from tests.cluster.nodes import Node
from tests.e2e.cluster import Cluster, Setup, fresh_cluster
from tests.e2e.finished import Finished, finish
from tests.e2e.jobs import small_job, training_job
from tests.e2e.operator_process import Operator, service_account
from tests.e2e.storage import Storage, named_storage, own_storage

ROOT = Path(__file__).parents[2]
CRD = ROOT / "crds" / "dreambooth.dev_dreamboothjobs.yaml"
NODES = 3
PROCESS_IMAGE = "dreambooth/this-environment:e2e"
"""The image that the session's own nodes have: it stands for this virtual environment."""
ON_PROCESS_NODES = {
    "requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [
            {"matchExpressions": [{"key": PROCESS_NODE_LABEL, "operator": "Exists"}]}
        ]
    }
}
LOST = ("node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready")
ENDPOINT_MISSING = (
    "pods of this cluster cannot reach an S3 server on this machine's loopback interface: set"
    " DREAMBOOTH_E2E_S3_ENDPOINT and the AWS_* keys, or run with --process-node"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """An option of `pytest tests/e2e`."""
    parser.addoption(
        "--process-node",
        action="store_true",
        help="on a cluster of DREAMBOOTH_E2E_KUBECONFIG: register nodes that run pods as processes",
    )


@pytest.fixture(scope="session")
def process_nodes(request: pytest.FixtureRequest) -> bool:
    """Whether pods run as processes on nodes of this session."""
    external = bool(os.environ.get("DREAMBOOTH_E2E_KUBECONFIG"))
    return not external or bool(request.config.getoption("--process-node", default=False))


@pytest.fixture(autouse=True)
def _needs_own_nodes(request: pytest.FixtureRequest) -> None:
    """Skip what only the session's own nodes can go through."""
    if request.node.get_closest_marker("own_nodes") and not request.getfixturevalue(
        "process_nodes"
    ):
        pytest.skip("stops or kills what is on a node: run with --process-node")


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """The control plane, with the DreamBoothJob's definition."""
    with control_plane(tmp_path_factory.mktemp("control-plane")) as plane:
        Kubectl(plane.kubeconfig).apply_definition(CRD)
        yield plane


@pytest.fixture(scope="session")
def nodes(
    plane: ControlPlane, process_nodes: bool, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Node]]:
    """The session's own nodes, ready; none on a cluster that brings its own."""
    with ExitStack() as stack:
        started: list[Node] = []
        for index in range(NODES if process_nodes else 0):
            folder = tmp_path_factory.mktemp(f"node-{index}")
            started.append(_node(plane, f"process-node-{index}", folder))
            stack.callback(started[-1].stop)
        ready = "--for=condition=Ready"
        names = {node.name for node in started}
        assert eventually(lambda: names <= _registered(plane)), "".join(map(Node.tail, started))
        for name in names:
            Kubectl(plane.kubeconfig)("wait", ready, "--timeout=30s", f"node/{name}")
        yield started


def _node(plane: ControlPlane, name: str, folder: Path) -> Node:
    # Other pods of someone's cluster are not to come to a process node.
    taint = [f"--taint={PROCESS_NODE_LABEL}=true:PreferNoSchedule"] if plane.external else []
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    return Node(plane.kubeconfig, name, folder, PROCESS_IMAGE, environment=threads, options=taint)


def _registered(plane: ControlPlane) -> set[str]:
    return {node["metadata"]["name"] for node in Kubectl(plane.kubeconfig).objects("node")}


@pytest.fixture(scope="session")
def storage(process_nodes: bool, request: pytest.FixtureRequest) -> Storage:
    """Object storage with tiny-sd and the subjects, where the quickstart looks for them."""
    storage = named_storage()
    if storage is None:
        if not process_nodes:
            pytest.fail(ENDPOINT_MISSING)
        storage = own_storage(request.getfixturevalue("s3_server"))
    storage.upload_examples()
    return storage


@pytest.fixture(scope="session")
def image(process_nodes: bool) -> str:
    """The trainer's image."""
    if process_nodes:
        return PROCESS_IMAGE
    named = os.environ.get("DREAMBOOTH_E2E_IMAGE")
    if not named:
        pytest.fail("DREAMBOOTH_E2E_IMAGE: name the trainer's image, or run with --process-node")
    return named


@pytest.fixture(scope="session")
def operator_process(
    plane: ControlPlane, image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    """The operator; nothing has started it yet."""
    folder = tmp_path_factory.mktemp("operator")
    restricted = plane.real and not plane.external
    kubeconfig = service_account(plane, folder) if restricted else plane.kubeconfig
    operator = Operator(kubeconfig, folder, image)
    yield operator
    operator.stop()


@pytest.fixture
def operator(operator_process: Operator) -> Operator:
    """The operator, running. A test may stop, kill or restart it; the next finds it running."""
    operator_process.start()
    return operator_process


@pytest.fixture(scope="session")
def setup(
    plane: ControlPlane,
    nodes: list[Node],
    storage: Storage,
    operator_process: Operator,
    image: str,
    process_nodes: bool,
) -> Setup:
    """What the scenarios share."""
    return Setup(plane, nodes, storage, operator_process, image, _runtime(plane, process_nodes))


def _runtime(plane: ControlPlane, process_nodes: bool) -> Object:
    """`spec.runtime` that leads a job's pods to where the image is."""
    if not process_nodes:
        policy = os.environ.get("DREAMBOOTH_E2E_PULL_POLICY", "IfNotPresent")
        return {"imagePullPolicy": policy}
    # A lost node is given up within seconds instead of minutes.
    impatient = {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 2}
    runtime: Object = {"tolerations": [{"key": key} | impatient for key in LOST]}
    if plane.external:
        runtime["podOverrides"] = {"spec": {"affinity": {"nodeAffinity": ON_PROCESS_NODES}}}
    return runtime


@pytest.fixture
def new_cluster(setup: Setup) -> Iterator[Callable[[], Cluster]]:
    """A function that creates another namespace with the S3 secret."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(fresh_cluster(setup))


@pytest.fixture
def cluster(new_cluster: Callable[[], Cluster]) -> Cluster:
    """The cluster, seen from a fresh namespace with the S3 secret."""
    return new_cluster()


@pytest.fixture(scope="session")
def uninterrupted(setup: Setup) -> Iterator[Finished]:
    """The job of `training_job`, trained to its end with nothing in its way."""
    setup.operator.start()
    with fresh_cluster(setup) as cluster:
        yield finish(cluster, training_job(setup.storage))


@pytest.fixture
def namespace(cluster: Cluster) -> str:
    """The fresh namespace of `cluster`."""
    return cluster.namespace


@pytest.fixture
def job(storage: Storage) -> Object:
    """A small job with two pods."""
    return small_job(storage)
