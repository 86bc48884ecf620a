"""What the operator creates for an attempt trains on a cluster, without the operator."""

from __future__ import annotations

import json

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_operator.manifests.resources import attempt_objects
from tests.cluster.client import Object
from tests.cluster.kubectl import eventually
from tests.e2e.cluster import Cluster


def create_attempt(cluster: Cluster, job: Object) -> None:
    """The Service, ConfigMap and Job of a job's first attempt."""
    owned = job["metadata"] | {"namespace": cluster.namespace, "uid": "by-hand"}
    parsed = DreamBoothJob.model_validate(cluster.placed(job) | {"metadata": owned})
    for each in attempt_objects(parsed, 0, cluster.setup.image):
        del each["metadata"]["ownerReferences"]  # there is no such DreamBoothJob
        cluster.kubectl("apply", "-f", "-", input=json.dumps(each))


def ended(cluster: Cluster, name: str) -> set[str]:
    """The conditions that hold of the attempt's Job."""
    (job,) = cluster.jobs(name)
    conditions = job.get("status", {}).get("conditions", [])
    return {each["type"] for each in conditions if each["status"] == "True"}


def test_an_attempt_trains_to_its_end(cluster: Cluster, job: Object) -> None:
    create_attempt(cluster, job)
    over = eventually(lambda: ended(cluster, "mug") & {"Complete", "Failed"} != set(), 120, 0.5)
    assert over, cluster.story("mug", "the Job did not end")
    assert "Complete" in ended(cluster, "mug"), cluster.story("mug", "the Job failed")
    written = {found.relative for found in cluster.storage.below(result(cluster))}
    assert "export/model_index.json" in written
    assert any(name.startswith("checkpoints/step-00000003") for name in written)


def result(cluster: Cluster) -> str:
    return f"s3://dreambooth/results/{cluster.namespace}/mug/by-hand"
