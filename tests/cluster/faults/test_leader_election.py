"""Two operators of which one acts, whatever becomes of the other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.cluster.faults.conftest import IMAGE, RESYNC_SECONDS, kubeconfig_through
from tests.cluster.faults.crd import delete_definition, ensure_definition
from tests.cluster.faults.gateway import Gateway
from tests.cluster.faults.harness import Harness, counters
from tests.e2e.operator_process import Operator

LEASE_SECONDS = 6
RENEW_SECONDS = 1


@dataclass
class Pair:
    """A harness with two operators."""

    harness: Harness
    """Its operator leads."""
    second: Operator
    lease_seconds: float

    def holder(self) -> str:
        """Who holds the Lease."""
        path = f"apis/coordination.k8s.io/v1/namespaces/{self.harness.namespace}/leases/operator"
        return str(self.harness.cluster.get(path)["spec"].get("holderIdentity"))

    def second_leads(self) -> bool:
        """Whether the second operator acts."""
        return "dreambooth_operator_leader 1.0" in self.second.metrics()


@pytest.fixture
def lease_seconds() -> float:
    """How long a leader may be silent."""
    return LEASE_SECONDS


@pytest.fixture
def pair(
    stopped_harness: Harness, plane: ControlPlane, lease_seconds: float, tmp_path: Path
) -> Iterator[Pair]:
    """Two operators, of which the first leads and the second is ready to."""
    folder = tmp_path / "second"
    folder.mkdir()
    with Gateway(plane.url) as gateway:
        kubeconfig = kubeconfig_through(gateway, plane, folder / "kubeconfig")
        second = Operator(kubeconfig, folder, IMAGE)
        for operator in (stopped_harness.operator, second):
            operator.configure(
                trainerImage=IMAGE,
                namespaces=[stopped_harness.namespace],
                progressSeconds=1,
                resyncSeconds=RESYNC_SECONDS,
                leaderElection={
                    "enabled": True,
                    "namespace": stopped_harness.namespace,
                    "name": "operator",
                    "leaseSeconds": lease_seconds,
                    "renewSeconds": RENEW_SECONDS,
                },
            )
        stopped_harness.start()
        stopped_harness.start(second)
        yield Pair(stopped_harness, second, lease_seconds)
        second.stop()


def test_one_acts_and_the_other_is_ready(pair: Pair) -> None:
    before = pair.harness.train()
    assert pair.harness.metric("leader") == 1
    assert not pair.second_leads()
    assert "watching" not in pair.second.tail()
    pair.harness.cluster.sleep(pair.lease_seconds + 2)
    assert not pair.second_leads()
    assert pair.harness.training() == before
    assert pair.harness.events().count("AttemptStarted") == 1


def test_a_leader_that_is_killed_is_replaced(pair: Pair) -> None:
    harness = pair.harness
    before = harness.train()
    harness.operator.kill()
    killed = time.monotonic()
    harness.wait(pair.second_leads)
    assert time.monotonic() - killed > pair.lease_seconds / 2
    harness.progress_servers["mug"].progress["step"] = 8
    harness.wait(harness.reports)
    assert harness.training() == before


def test_a_leader_that_stood_still_ends_itself(pair: Pair, plane: ControlPlane) -> None:
    harness = pair.harness
    harness.train()
    first = pair.holder()
    with harness.frozen():
        harness.wait(pair.second_leads)
        assert pair.holder() != first
        harness.cluster.end(harness.running_pods("mug-0", 2)[0], 1)
        harness.wait_attempt("mug", 1)
        written = len(harness.gateway.writes)
    harness.wait(lambda: not harness.operator.running)
    assert plane.real or written
    assert harness.gateway.writes[written:] == []
    assert "another process may lead" in harness.operator.tail()
    assert harness.settles()
    assert harness.training().attempts == (0, 1)
    assert harness.status()["counters"] == counters(failures=1)
    assert harness.events().count("AttemptStarted") == 2


def test_a_leader_that_cannot_renew_ends_before_the_other_acts(pair: Pair) -> None:
    harness = pair.harness
    before = harness.train()
    harness.gateway.hang()
    harness.wait(lambda: not harness.operator.running)
    assert not pair.second_leads()
    harness.wait(pair.second_leads)
    assert harness.training() == before


@pytest.mark.parametrize("lease_seconds", [60])
def test_a_leader_that_is_asked_to_stop_hands_over_at_once(pair: Pair) -> None:
    before = pair.harness.train()
    pair.harness.operator.stop()
    pair.harness.wait(pair.second_leads, timeout=pair.lease_seconds / 2)
    assert pair.harness.training() == before


def test_a_leader_that_waits_for_the_definition_keeps_its_lease(pair: Pair) -> None:
    harness = pair.harness
    delete_definition(harness.cluster)
    harness.wait(lambda: harness.probe("/readyz"))
    holder = pair.holder()
    harness.cluster.sleep(pair.lease_seconds + RENEW_SECONDS)
    assert pair.holder() == holder
    ensure_definition(harness.cluster)
    harness.train()
    assert harness.operator.running
    assert not pair.second_leads()


def test_one_that_never_led_ends_in_peace(pair: Pair) -> None:
    before = pair.harness.train()
    pair.second.stop()
    assert "another process may lead" not in pair.second.tail()
    assert pair.harness.training() == before
