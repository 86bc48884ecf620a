"""The operator's time is the API server's, whatever its node's clock says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dreambooth_operator.controller.kube.clock import ServerClock

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Node:
    """A node with a clock."""

    def __init__(self, local: datetime) -> None:
        self.seconds = 1000.0
        self.clock = ServerClock(lambda: local, lambda: self.seconds)


def test_node_clock_is_used_until_the_first_response() -> None:
    node = Node(NOON)
    node.seconds += 90
    assert node.clock.now() == NOON + timedelta(seconds=90)


@pytest.mark.parametrize("minutes", [-10, 10])
def test_server_time_is_used_when_the_node_clock_is_wrong(minutes: int) -> None:
    node = Node(NOON + timedelta(minutes=minutes))
    node.clock.synchronize("Sun, 01 Mar 2026 12:00:00 GMT")
    node.seconds += 30
    assert abs(node.clock.now() - NOON - timedelta(seconds=30)) <= timedelta(seconds=1)


def test_time_does_not_jump_by_differences_within_rounding() -> None:
    node = Node(NOON + timedelta(seconds=1.4))
    before = node.clock.now()
    node.clock.synchronize("Sun, 01 Mar 2026 12:00:00 GMT")
    assert node.clock.now() == before


@pytest.mark.parametrize("date", [None, "", "yesterday"])
def test_unreadable_date_changes_nothing(date: str | None) -> None:
    node = Node(NOON)
    node.clock.synchronize(date)
    assert node.clock.now() == NOON
