"""A node of the operator whose clock is minutes off: the API server's clock is what counts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from tests.cluster.bad_days.day import Day, counters

MINUTES = timedelta(minutes=10)
"""More than any deadline of these tests."""
LONGEST_SECONDS = 15
"""From the end of an attempt to the next one, on a machine that is busy."""


@pytest.fixture(params=[MINUTES, -MINUTES], ids=["ahead", "behind"])
def program(request: pytest.FixtureRequest) -> Sequence[str]:
    """The operator, on a node with such a clock."""
    skew: timedelta = request.param
    return ("tests.cluster.bad_days.skewed_operator", str(skew.total_seconds()))


def test_deadlines_are_not_met_early(day: Day) -> None:
    assert "The API server's clock is" in day.operator.tail()
    before = day.train(startDeadlineSeconds=60, activeDeadlineSeconds=60)
    day.restart()
    day.ranks["mug"].progress["step"] = 8
    day.wait(day.reports)
    assert day.settles()
    assert day.training() == before
    status = day.status()
    times = [status["startTime"], status["progress"]["updatedAt"]]
    times += [each["lastTransitionTime"] for each in status["conditions"]]
    assert all(is_recent(time) for time in times), times


def test_a_restart_waits_for_as_long_as_it_is_to(day: Day) -> None:
    day.train(restart={"backoffSeconds": 4, "maxBackoffSeconds": 8})
    day.cluster.end(day.running_pods("mug-0", 2)[0], 1)
    day.wait_attempt("mug", 1)
    first, second = day.status()["attempts"]
    waited = datetime.fromisoformat(second["started"]) - datetime.fromisoformat(first["ended"])
    assert 4 <= waited.total_seconds() <= LONGEST_SECONDS
    assert day.status()["counters"] == counters(failures=1)


def test_a_lost_node_is_not_given_up_early(day: Day) -> None:
    day.train(terminationGracePeriodSeconds=30, terminatingTimeoutSeconds=60)
    pod = day.running_pods("mug-0", 2)[1]
    node = day.cluster.node_of(pod)
    day.cluster.lose(node)
    try:
        day.cluster.delete(day.path("pods", pod["metadata"]["name"]))
        day.cluster.sleep(5)
        assert day.training().attempts == (0,)
        assert "outcome" not in day.status()["attempts"][0]
    finally:
        day.cluster.find_again(node)
    day.wait_attempt("mug", 1)
    assert day.status()["counters"] == counters(disruptions=1)


def is_recent(time: str) -> bool:
    return abs(datetime.now(UTC) - datetime.fromisoformat(time)) < MINUTES / 4
