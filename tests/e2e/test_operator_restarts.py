"""The operator is killed again and again, and no job notices."""

from __future__ import annotations

import pytest

from tests.cluster.kubectl import eventually
from tests.e2e.attempts import never_two_attempts, starts, training_pods
from tests.e2e.cluster import Cluster
from tests.e2e.jobs import small_job
from tests.e2e.operator_process import Operator


@pytest.mark.timeout(600)
def test_an_operator_that_dies_in_every_phase_carries_a_job_to_its_end(
    cluster: Cluster, operator: Operator
) -> None:
    job = small_job(cluster.storage, steps=100, every=1000, nodes=1)
    job["spec"]["runtime"]["restart"] = {"backoffSeconds": 5}
    cluster.apply(job)
    with never_two_attempts(cluster, "mug"):
        die_in(cluster, "Preflight", "Starting", "Running")
        pods = training_pods(cluster, "mug")
        cluster.wait_step("mug", 1)
        assert training_pods(cluster, "mug") == pods

        operator.kill()
        cluster.evict(*pods)  # while the operator is down
        operator.start()
        die_in(cluster, "Restarting", "Starting")

        cluster.wait_attempt("mug", 1)
        cluster.suspend("mug")
        cluster.wait("mug", lambda job: "outcome" in job["status"]["attempts"][-1])
        operator.restart()  # while it stops
        die_in(cluster, "Suspended")

        cluster.suspend("mug", False)
        die_in(cluster, "Starting", "Running")
        status = cluster.wait_phase("mug", "Succeeded", timeout=180)["status"]

    outcomes = [(attempt["number"], attempt["outcome"]) for attempt in status["attempts"]]
    assert outcomes == [(0, "Disrupted"), (1, "Suspended"), (2, "Succeeded")]
    assert status["counters"] == {"failures": 0, "disruptions": 1, "preemptions": 0, "stalls": 0}
    first, *_, (_, resumed) = starts(cluster, "mug")
    assert first == (1, None)
    assert resumed
    messages = [
        message for reason, message in cluster.events("mug") if reason.startswith("Attempt")
    ]
    assert len(set(messages)) == len(messages)
    before = cluster.versions()
    operator.restart()
    assert eventually(lambda: operator.metric("reconcile_seconds_count") >= operator.metric("jobs"))
    assert cluster.versions() == before


def die_in(cluster: Cluster, *phases: str) -> None:
    """Kill and start the operator when the job comes into each of the phases."""
    for phase in phases:
        cluster.wait_phase("mug", phase)
        cluster.operator.restart()
