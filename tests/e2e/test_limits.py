"""Jobs that cannot start, or take too long, end and say why. They leave no pods behind."""

from __future__ import annotations

import re

import pytest

from tests.cluster.kubectl import eventually
from tests.e2e.attempts import attempt_jobs, training_pods
from tests.e2e.cluster import Cluster, condition
from tests.e2e.jobs import endless_job, small_job
from tests.e2e.operator_process import Operator
from tests.e2e.storage import SECRET


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        # Nothing answers for names that end in .invalid (RFC 2606).
        ("dreambooth.invalid/trainer:1", "(ErrImagePull|ImagePullBackOff): .*dreambooth.invalid"),
        ("Not/An/Image", "InvalidImageName: .*Not/An/Image"),
    ],
    ids=["unknown", "malformed"],
)
def test_an_image_that_cannot_be_had_ends_the_job(
    cluster: Cluster, operator: Operator, name: str, problem: str
) -> None:
    job = small_job(cluster.storage)
    job["spec"]["runtime"]["image"] = name
    cluster.apply(job)
    failed = cluster.wait_phase("mug", "Failed", timeout=60)
    assert re.search(problem, condition(failed, "Failed")["message"], re.DOTALL)
    assert attempt_jobs(cluster, "mug") == []  # no GPU was ever asked for
    assert eventually(lambda: cluster.pods("mug") == [])


def test_a_secret_that_vanishes_ends_the_job(cluster: Cluster, operator: Operator) -> None:
    cluster.apply(small_job(cluster.storage))
    assert eventually(lambda: "Running" in [p["status"].get("phase") for p in cluster.pods("mug")])
    cluster.kubectl("delete", "secret", SECRET)  # the preflight has read it
    failed = cluster.wait_phase("mug", "Failed")
    assert f'secret "{SECRET}" not found' in condition(failed, "Failed")["message"]
    assert failed["status"]["attempts"][0]["final"]
    assert eventually(lambda: training_pods(cluster, "mug") == {})


def test_pods_that_find_no_node_end_the_job_at_its_start_deadline(
    cluster: Cluster, operator: Operator
) -> None:
    job = small_job(cluster.storage)
    job["spec"]["runtime"] |= {
        "resources": {"requests": {"cpu": "1000"}},
        "startDeadlineSeconds": 5,
    }
    cluster.apply(job)
    waiting = cluster.wait(
        "mug", lambda job: condition(job, "PodsReady").get("reason") == "Unschedulable"
    )
    assert "Insufficient cpu" in condition(waiting, "PodsReady")["message"]
    failed = cluster.wait_phase("mug", "Failed")
    message = condition(failed, "Failed")["message"]
    assert "spec.runtime.startDeadlineSeconds (5 s)" in message
    assert "Insufficient cpu" in message
    assert eventually(lambda: training_pods(cluster, "mug") == {})


def test_a_job_that_runs_for_too_long_saves_and_ends(cluster: Cluster, operator: Operator) -> None:
    job = endless_job(cluster.storage, nodes=1)
    job["spec"]["runtime"]["activeDeadlineSeconds"] = 3600
    cluster.apply(job)
    cluster.wait_step("mug", 1)
    # As if earlier attempts had run for an hour.
    ran = '--patch={"status": {"runSeconds": 3600}}'
    cluster.kubectl("patch", "dbj", "mug", "--subresource=status", "--type=merge", ran)
    failed = cluster.wait_phase("mug", "Failed")
    assert "spec.runtime.activeDeadlineSeconds (3600 s)" in condition(failed, "Failed")["message"]
    assert training_pods(cluster, "mug") == {}
    last = failed["status"]["lastCheckpoint"]["step"]
    assert cluster.storage.checkpoints(cluster.run("mug")) == [last]
