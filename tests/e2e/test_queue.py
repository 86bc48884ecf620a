"""Jobs that wait in a queue. The tests play Kueue, and admit or preempt by `spec.suspend`."""

from __future__ import annotations

import pytest

from tests.cluster.client import Object
from tests.cluster.kubectl import eventually
from tests.e2e.attempts import attempt_jobs, starts, training_pods
from tests.e2e.cluster import Cluster, condition
from tests.e2e.jobs import small_job
from tests.e2e.operator_process import Operator
from tests.e2e.storage import Storage


@pytest.fixture
def queued_job(storage: Storage) -> Object:
    """A job for a queue; it makes no checkpoint before its end, but when it is asked to stop."""
    job = small_job(storage, steps=60, every=1000, nodes=1)
    job["spec"]["runtime"]["queue"] = "team"
    return job


def test_a_job_waits_for_its_queue_and_goes_on_after_a_preemption(
    cluster: Cluster, operator: Operator, queued_job: Object
) -> None:
    apply_and_check(cluster, queued_job)
    (born,) = attempt_jobs(cluster, "mug")
    assert born["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    assert training_pods(cluster, "mug") == {}

    hold(cluster, "mug-0", False)
    running = cluster.wait_step("mug", 1)
    assert condition(running, "Queued")["status"] == "False"
    hold(cluster, "mug-0", True)
    queued = cluster.wait_phase("mug", "Queued")
    assert queued["status"]["counters"]["preemptions"] == 1
    saved = cluster.wait("mug", lambda job: "lastCheckpoint" in job["status"])
    step = saved["status"]["lastCheckpoint"]["step"]
    assert cluster.storage.checkpoints(cluster.run("mug")) == [step]
    assert eventually(lambda: training_pods(cluster, "mug") == {})

    hold(cluster, "mug-0", False)
    status = cluster.wait_phase("mug", "Succeeded")["status"]
    assert starts(cluster, "mug") == [(1, None), (1, step)]
    assert status["counters"] == {"failures": 0, "disruptions": 0, "preemptions": 1, "stalls": 0}
    reasons = [reason for reason, _ in cluster.events("mug")]
    assert (reasons.count("Queued"), reasons.count("Preempted")) == (3, 1)


def test_a_queue_cannot_let_go_what_its_user_has_suspended(
    cluster: Cluster, operator: Operator, queued_job: Object
) -> None:
    apply_and_check(cluster, queued_job)
    operator.restart()
    cluster.suspend("mug")
    cluster.wait_phase("mug", "Suspended")
    assert attempt_jobs(cluster, "mug") == []

    cluster.suspend("mug", False)
    status = cluster.wait_phase("mug", "Queued")["status"]
    (born,) = attempt_jobs(cluster, "mug")
    assert (born["metadata"]["name"], born["spec"]["suspend"]) == ("mug-1", True)
    assert [attempt.get("outcome") for attempt in status["attempts"]] == ["Suspended", None]
    assert not any(status["counters"].values())


def test_what_cannot_be_checked_outside_is_checked_by_the_first_pod(
    cluster: Cluster, operator: Operator, queued_job: Object
) -> None:
    queued_job["spec"]["runtime"]["preflight"] = {"runIn": "FirstPod"}
    queued_job["spec"]["subjects"][0]["images"] += "/nothing"
    cluster.apply(queued_job)
    held = cluster.wait_phase("mug", "Queued")
    assert condition(held, "PreflightPassed")["reason"] == "InFirstPod"
    assert [job["metadata"]["name"] for job in cluster.jobs("mug")] == ["mug-0"]
    hold(cluster, "mug-0", False)
    failed = cluster.wait_phase("mug", "Failed")
    assert condition(failed, "PreflightPassed")["reason"] == "Refused"
    assert "spec.subjects[0].images" in condition(failed, "Failed")["message"]


def apply_and_check(cluster: Cluster, job: Object) -> None:
    """Apply a job, and bring it to where its first attempt waits in the queue."""
    cluster.apply(job)
    held = cluster.wait_phase("mug", "Queued")
    assert "LocalQueue team holds Job mug-preflight" in condition(held, "Queued")["message"]
    hold(cluster, "mug-preflight", False)
    cluster.wait("mug", lambda job: bool(job["status"].get("attempts")))
    cluster.wait_phase("mug", "Queued")


def hold(cluster: Cluster, job: str, suspend: bool) -> None:
    """Suspend a Job, or let it go, as Kueue does."""
    change = "true" if suspend else "false"
    cluster.kubectl("patch", "job", job, f'--patch={{"spec": {{"suspend": {change}}}}}')
