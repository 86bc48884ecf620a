"""`kubectl apply` a job, and it trains: with two pods, to an export, and says so truthfully."""

from __future__ import annotations

from tests.cluster.client import Object
from tests.e2e.cluster import Cluster
from tests.e2e.operator_process import Operator


def test_a_job_trains_to_its_end(cluster: Cluster, operator: Operator, job: Object) -> None:
    cluster.apply(job)
    done = cluster.wait_phase("mug", "Succeeded")
    assert done["status"]["progress"] | {"step": 6, "totalSteps": 6} == done["status"]["progress"]
    export = done["status"]["artifacts"]["export"]
    written = {found.relative for found in cluster.storage.below(export)}
    assert "model_index.json" in written
    (attempt,) = done["status"]["attempts"]
    assert attempt["outcome"] == "Succeeded"
