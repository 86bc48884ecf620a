"""What the operator's manifests allow it is enough, and it looks nowhere else."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubectl import Kubectl
from tests.e2e.cluster import Cluster
from tests.e2e.finished import Finished
from tests.e2e.jobs import small_job
from tests.e2e.operator_process import Operator, service_account


@pytest.fixture
def restricted(
    plane: ControlPlane, operator_process: Operator, image: str, cluster: Cluster, tmp_path: Path
) -> Iterator[Operator]:
    """The only operator that runs: it is for the namespace of `cluster`, and lives in another."""
    operator_process.stop()
    home = f"operator-{uuid.uuid4().hex[:8]}"
    kubectl = Kubectl(plane.kubeconfig, home)
    if plane.real:
        kubeconfig = service_account(plane, tmp_path, home, [cluster.namespace])
    else:  # the double lets everybody do everything
        kubectl.create_namespace(home)
        kubeconfig = plane.kubeconfig
    operator = Operator(kubeconfig, tmp_path, image)
    operator.configure(
        trainerImage=image,
        namespaces=[cluster.namespace],
        progressSeconds=1,
        leaderElection={"enabled": True, "namespace": home},
    )
    operator.start()
    yield operator
    operator.stop()
    kubectl("delete", "namespace", home, "--wait=false")


def test_an_operator_of_one_namespace_leaves_the_others_alone(
    restricted: Operator, cluster: Cluster, new_cluster: Callable[[], Cluster]
) -> None:
    elsewhere = new_cluster()
    for place in (elsewhere, cluster):
        place.apply(small_job(cluster.storage, nodes=1))
    before = elsewhere.versions()
    cluster.wait_phase("mug", "Succeeded")
    assert elsewhere.versions() == before
    assert set(before) == {"DreamBoothJob/mug"}
    assert_never_refused(restricted)


def test_an_operator_of_all_namespaces_needs_no_more_than_it_has(
    operator: Operator, uninterrupted: Finished
) -> None:
    assert uninterrupted.status["phase"] == "Succeeded"
    assert_never_refused(operator)


def assert_never_refused(operator: Operator) -> None:
    """Assert that no request of the operator was forbidden, in all runs that share its log.

    Creating objects in a namespace under deletion is forbidden too, and is no lack of permissions.
    """
    log = operator.log.read_text().lower().splitlines()
    refused = [line for line in log if "forbidden" in line]
    assert [line for line in refused if "because it is being terminated" not in line] == []
