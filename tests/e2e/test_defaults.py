"""Jobs that leave to the operator where their storage is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.e2e.cluster import Cluster, condition
from tests.e2e.jobs import small_job
from tests.e2e.operator_process import Operator
from tests.e2e.storage import Storage


@pytest.fixture
def generous(
    plane: ControlPlane,
    operator_process: Operator,
    image: str,
    cluster: Cluster,
    storage: Storage,
    tmp_path: Path,
) -> Iterator[Operator]:
    """The only operator that runs: it knows a storage for all jobs."""
    operator_process.stop()
    operator = Operator(plane.kubeconfig, tmp_path, image)
    operator.configure(
        trainerImage=image,
        namespaces=[cluster.namespace],
        progressSeconds=1,
        jobDefaults={"storage": storage.spec},
    )
    operator.start()
    yield operator
    operator.stop()


def test_a_job_without_storage_is_trained_with_the_operators(
    generous: Operator, cluster: Cluster, storage: Storage
) -> None:
    job = small_job(storage, nodes=1)
    del job["spec"]["storage"]
    cluster.apply(job)
    done = cluster.wait_phase("mug", "Succeeded")
    assert "endpointURL" not in done["spec"]["storage"]
    assert "spec.storage: from the operator's defaults" in condition(done, "Accepted")["message"]
    assert storage.weights(cluster.run("mug"))
