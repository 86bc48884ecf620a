"""A node of the operator whose clock is minutes off: the API server's clock is what counts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from dreambooth_operator.controller.kube.clock import TOLERANCE
from tests.cluster.faults.harness import Harness, counters

MINUTES = timedelta(minutes=10)
"""More than any deadline of these tests."""
LONGEST_SECONDS = 15
"""From the end of an attempt to the next one, on a machine that is busy."""


@pytest.fixture(params=[MINUTES, -MINUTES], ids=["ahead", "behind"])
def program(request: pytest.FixtureRequest) -> Sequence[str]:
    """The operator, on a node with such a clock."""
    skew: timedelta = request.param
    return ("tests.cluster.faults.skewed_operator", str(skew.total_seconds()))


def test_deadlines_are_not_met_early(harness: Harness) -> None:
    assert "the API server's clock is" in harness.operator.tail()
    before = harness.train(startDeadlineSeconds=60, activeDeadlineSeconds=60)
    harness.restart()
    harness.progress_servers["mug"].progress["step"] = 8
    harness.wait(harness.reports)
    assert harness.settles()
    assert harness.training() == before
    status = harness.status()
    times = [status["startTime"], status["progress"]["updatedAt"]]
    times += [each["lastTransitionTime"] for each in status["conditions"]]
    assert all(is_recent(time) for time in times), times


def test_a_restart_waits_for_as_long_as_it_is_to(harness: Harness) -> None:
    harness.train(restart={"backoffSeconds": 4, "maxBackoffSeconds": 8})
    harness.cluster.end(harness.running_pods("mug-0", 2)[0], 1)
    harness.wait_attempt("mug", 1)
    first, second = harness.status()["attempts"]
    waited = datetime.fromisoformat(second["started"]) - datetime.fromisoformat(first["ended"])
    # Between the two times the operator may have synchronized its clock.
    assert 4 - TOLERANCE.total_seconds() <= waited.total_seconds() <= LONGEST_SECONDS
    assert harness.status()["counters"] == counters(failures=1)


def test_a_lost_node_is_not_given_up_early(harness: Harness) -> None:
    harness.train(terminationGracePeriodSeconds=30, terminatingTimeoutSeconds=60)
    pod = harness.running_pods("mug-0", 2)[1]
    node = harness.cluster.node_of(pod)
    harness.cluster.lose(node)
    try:
        harness.cluster.delete(harness.path("pods", pod["metadata"]["name"]))
        harness.cluster.sleep(5)
        assert harness.training().attempts == (0,)
        assert "outcome" not in harness.status()["attempts"][0]
    finally:
        harness.cluster.recover(node)
    harness.wait_attempt("mug", 1)
    assert harness.status()["counters"] == counters(disruptions=1)


def is_recent(time: str) -> bool:
    return abs(datetime.now(UTC) - datetime.fromisoformat(time)) < MINUTES / 4
