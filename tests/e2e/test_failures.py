"""What ends an attempt early, and how the job goes on."""

from __future__ import annotations

from datetime import datetime

import pytest

from tests.cluster.client import Object
from tests.cluster.kubectl import eventually
from tests.e2e.attempts import starts
from tests.e2e.cluster import JOB_LABEL, Cluster
from tests.e2e.finished import Finished
from tests.e2e.jobs import endless_job, training_job
from tests.e2e.operator_process import Operator
from tests.e2e.storage import BUCKET

CHILDREN = "job,pod,service,configmap"


@pytest.mark.own_nodes
def test_a_killed_rank_restarts_the_job_and_changes_nothing(
    cluster: Cluster, operator: Operator, uninterrupted: Finished
) -> None:
    """The weights are those of an uninterrupted job, byte for byte."""
    cluster.apply(training_job(cluster.storage))
    victim = cluster.wait_pod("mug", attempt=0, index=1)
    cluster.wait_saved("mug", 10)
    cluster.kill_rank(victim)
    status = cluster.wait_phase("mug", "Succeeded", timeout=180)["status"]

    assert status["counters"] == counters(failures=1)
    failed, last = status["attempts"]
    assert (failed["outcome"], last["outcome"]) == ("Failed", "Succeeded")
    assert (failed["rank"], failed["exitCode"]) == (1, 137)
    assert failed["node"] == victim["spec"]["nodeName"]
    assert failed["reason"] == "killed by SIGKILL (out of memory, or killed by hand)"
    messages = [message for reason, message in cluster.events("mug") if reason == "AttemptFailed"]
    assert messages == [f"Attempt 0, rank 1 on {failed['node']}, exit code 137: {failed['reason']}"]
    (_, first), (_, second) = starts(cluster, "mug")
    assert first is None
    assert second in (10, 20, 30)
    assert cluster.storage.weights(cluster.run("mug")) == cluster.storage.weights(uninterrupted.run)


def test_an_eviction_is_no_failure(cluster: Cluster, operator: Operator) -> None:
    cluster.apply(endless_job(cluster.storage))
    cluster.wait_step("mug", 1)
    victim = cluster.wait_pod("mug", attempt=0, index=1)
    cluster.evict(victim["metadata"]["name"])
    status = cluster.wait_attempt("mug", 1)["status"]

    assert status["counters"] == counters(disruptions=1)
    disrupted = status["attempts"][0]
    assert disrupted["outcome"] == "Disrupted"
    assert (disrupted["rank"], disrupted["node"]) == (1, victim["spec"]["nodeName"])
    assert "EvictionByEvictionAPI" in disrupted["reason"]
    (step,) = cluster.storage.checkpoints(cluster.run("mug"))  # saved when it was asked to stop
    assert step >= 1
    assert eventually(lambda: starts(cluster, "mug") == [(2, None), (2, step)])


@pytest.mark.parametrize("operated", [True, False], ids=["operated", "without an operator"])
def test_a_deleted_job_saves_and_goes(cluster: Cluster, operator: Operator, operated: bool) -> None:
    cluster.apply(endless_job(cluster.storage, nodes=2 if operated else 1))
    step = cluster.wait_step("mug", 1)["status"]["progress"]["step"]
    run, before = cluster.run("mug"), written(cluster)
    if not operated:
        operator.kill()
    cluster.delete("mug")
    cluster.wait_gone("mug", timeout=40)  # the grace period is 30 s

    (saved,) = cluster.storage.checkpoints(run)  # none but the last one
    assert saved >= step
    assert {uri: time for uri, time in written(cluster).items() if uri in before} == before
    selector = f"{JOB_LABEL}=mug"
    assert eventually(lambda: cluster.kubectl.objects(CHILDREN, selector) == [])


def written(cluster: Cluster) -> dict[str, datetime]:
    """When each result of the namespace's jobs was written."""
    found = cluster.storage.below(f"s3://{BUCKET}/results/{cluster.namespace}")
    return {each.uri: each.modified for each in found}


def counters(**some: int) -> Object:
    """All counters of a status."""
    return dict.fromkeys(("failures", "disruptions", "preemptions", "stalls"), 0) | some
