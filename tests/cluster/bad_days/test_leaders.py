"""Two operators of which one acts, whatever becomes of the other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.bad_days.conftest import IMAGE, RESYNC_SECONDS, kubeconfig_through
from tests.cluster.bad_days.day import Day, counters
from tests.cluster.bad_days.definition import delete_definition, ensure_definition
from tests.cluster.bad_days.gateway import Gateway
from tests.cluster.control_plane import ControlPlane
from tests.e2e.operator_process import Operator

LEASE_SECONDS = 6
RENEW_SECONDS = 1


@dataclass
class Pair:
    """A day with two operators."""

    day: Day
    """Its operator leads."""
    second: Operator
    lease_seconds: float

    def holder(self) -> str:
        """Who holds the Lease."""
        path = f"apis/coordination.k8s.io/v1/namespaces/{self.day.namespace}/leases/operator"
        return str(self.day.cluster.get(path)["spec"].get("holderIdentity"))

    def second_leads(self) -> bool:
        """Whether the second operator acts."""
        return "dreambooth_operator_leader 1.0" in self.second.metrics()


@pytest.fixture
def lease_seconds() -> float:
    """How long a leader may be silent."""
    return LEASE_SECONDS


@pytest.fixture
def pair(
    stopped_day: Day, plane: ControlPlane, lease_seconds: float, tmp_path: Path
) -> Iterator[Pair]:
    """Two operators, of which the first leads and the second is ready to."""
    folder = tmp_path / "second"
    folder.mkdir()
    with Gateway(plane.url) as gateway:
        kubeconfig = kubeconfig_through(gateway, plane, folder / "kubeconfig")
        second = Operator(kubeconfig, folder, IMAGE)
        for operator in (stopped_day.operator, second):
            operator.configure(
                trainerImage=IMAGE,
                namespaces=[stopped_day.namespace],
                progressSeconds=1,
                resyncSeconds=RESYNC_SECONDS,
                leaderElection={
                    "enabled": True,
                    "namespace": stopped_day.namespace,
                    "name": "operator",
                    "leaseSeconds": lease_seconds,
                    "renewSeconds": RENEW_SECONDS,
                },
            )
        stopped_day.start()
        stopped_day.start(second)
        yield Pair(stopped_day, second, lease_seconds)
        second.stop()


def test_one_acts_and_the_other_is_ready(pair: Pair) -> None:
    before = pair.day.train()
    assert pair.day.metric("leader") == 1
    assert not pair.second_leads()
    assert "watching" not in pair.second.tail()
    pair.day.cluster.sleep(pair.lease_seconds + 2)
    assert not pair.second_leads()
    assert pair.day.training() == before
    assert pair.day.events().count("AttemptStarted") == 1


def test_a_leader_that_is_killed_is_replaced(pair: Pair) -> None:
    day = pair.day
    before = day.train()
    day.operator.kill()
    killed = time.monotonic()
    day.wait(pair.second_leads)
    assert time.monotonic() - killed > pair.lease_seconds / 2
    day.ranks["mug"].progress["step"] = 8
    day.wait(day.reports)
    assert day.training() == before


def test_a_leader_that_stood_still_ends_itself(pair: Pair, plane: ControlPlane) -> None:
    day = pair.day
    day.train()
    first = pair.holder()
    with day.frozen():
        day.wait(pair.second_leads)
        assert pair.holder() != first
        day.cluster.end(day.running_pods("mug-0", 2)[0], 1)
        day.wait_attempt("mug", 1)
        written = len(day.gateway.writes)
    day.wait(lambda: not day.operator.running)
    assert plane.real or written
    assert day.gateway.writes[written:] == []
    assert "another process may lead" in day.operator.tail()
    assert day.settles()
    assert day.training().attempts == (0, 1)
    assert day.status()["counters"] == counters(failures=1)
    assert day.events().count("AttemptStarted") == 2


def test_a_leader_that_cannot_renew_ends_before_the_other_acts(pair: Pair) -> None:
    day = pair.day
    before = day.train()
    day.gateway.hang()
    day.wait(lambda: not day.operator.running)
    assert not pair.second_leads()
    day.wait(pair.second_leads)
    assert day.training() == before


@pytest.mark.parametrize("lease_seconds", [60])
def test_a_leader_that_is_asked_to_stop_hands_over_at_once(pair: Pair) -> None:
    before = pair.day.train()
    pair.day.operator.stop()
    pair.day.wait(pair.second_leads, timeout=pair.lease_seconds / 2)
    assert pair.day.training() == before


def test_a_leader_that_waits_for_the_definition_keeps_its_lease(pair: Pair) -> None:
    day = pair.day
    delete_definition(day.cluster)
    day.wait(lambda: day.probe("/readyz"))
    holder = pair.holder()
    day.cluster.sleep(pair.lease_seconds + RENEW_SECONDS)
    assert pair.holder() == holder
    ensure_definition(day.cluster)
    day.train()
    assert day.operator.running
    assert not pair.second_leads()


def test_one_that_never_led_ends_in_peace(pair: Pair) -> None:
    before = pair.day.train()
    pair.second.stop()
    assert "another process may lead" not in pair.second.tail()
    assert pair.day.training() == before
