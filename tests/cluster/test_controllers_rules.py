"""The pure rules of the controllers, where a cluster would be too slow to show them."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.cluster.controllers import job_pods, job_rules
from tests.cluster.controllers.fit import Place, choose, quantity, tolerates
from tests.cluster.test_controllers_jobs import attempt

Object = dict[str, Any]

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def failed_pod(name: str = "trainer", code: int = 1, after: int = 0) -> Object:
    ended = (NOON + timedelta(seconds=after)).strftime("%Y-%m-%dT%H:%M:%SZ")
    state = {"terminated": {"exitCode": code, "finishedAt": ended}}
    return {
        "metadata": {"namespace": "team", "name": "dog-0-0-abcde"},
        "status": {"phase": "Failed", "containerStatuses": [{"name": name, "state": state}]},
    }


@pytest.mark.parametrize(
    ("indexes", "text"),
    [
        (set(), ""),
        ({0}, "0"),
        ({0, 1}, "0,1"),
        ({0, 1, 2, 5}, "0-2,5"),
        ({1, 3, 4, 7, 8, 9}, "1,3,4,7-9"),
    ],
)
def test_completed_indexes_are_written_as_ranges(indexes: set[int], text: str) -> None:
    assert job_rules.format_indexes(indexes) == text
    assert job_rules.parse_indexes(text) == indexes


def test_the_pause_doubles_with_every_failure_up_to_ten_minutes() -> None:
    backoff = job_rules.Backoff()
    pauses = []
    for _ in range(8):
        backoff = backoff.after([], [failed_pod()])
        pauses.append(backoff.remaining(NOON))
    assert pauses == [10, 20, 40, 80, 160, 320, 600, 600]
    assert backoff.remaining(NOON + timedelta(seconds=601)) == 0


def test_a_success_ends_the_pause() -> None:
    backoff = job_rules.Backoff().after([], [failed_pod(), failed_pod()])
    assert backoff.after([failed_pod(after=5)], []).remaining(NOON) == 0


def test_the_first_rule_that_matches_decides() -> None:
    assert job_rules.classify(attempt(), failed_pod(code=143)) == job_rules.PodFailure(
        counted=False
    )
    assert job_rules.classify(attempt(), failed_pod(code=1)) == job_rules.PodFailure()
    disrupted = failed_pod(code=143)
    disrupted["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True"}]
    assert job_rules.classify(attempt(), disrupted).fails_job


def test_a_rule_is_about_the_container_that_it_names() -> None:
    assert job_rules.classify(attempt(), failed_pod("sidecar", code=64)) == job_rules.PodFailure()


def test_other_exit_codes_can_be_meant() -> None:
    codes = {"operator": "NotIn", "values": [1, 2]}
    rules = [{"action": "FailJob", "onExitCodes": codes}]
    job = attempt(podFailurePolicy={"rules": rules})
    assert not job_rules.classify(job, failed_pod(code=1)).fails_job
    assert not job_rules.classify(job, failed_pod(code=0)).fails_job
    assert job_rules.classify(job, failed_pod(code=3)).fails_job


@pytest.mark.parametrize(
    ("text", "thousandths"),
    [("2", 2000), ("500m", 500), ("1Ki", 1_024_000), ("1.5k", 1_500_000), ("1e3", 1_000_000)],
)
def test_quantities(text: str, thousandths: int) -> None:
    assert quantity(text) == thousandths


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "gpu", "operator": "Exists"}, True),
        ({"key": "gpu", "value": "yes"}, True),
        ({"key": "gpu", "value": "no"}, False),
        ({"key": "other", "operator": "Exists"}, False),
        ({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}, False),
        ({}, False),
    ],
)
def test_tolerations(toleration: Object, tolerated: bool) -> None:
    taint = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}
    assert tolerates(toleration, taint) is tolerated


def test_the_pods_of_a_job_are_spread_before_nodes_are_filled() -> None:
    busy, free = place("busy"), place("free")
    owner = {"uid": "job", "controller": True}
    peer = {"metadata": {"ownerReferences": [owner]}, "spec": {"containers": [{"name": "c"}]}}
    free.take(peer)
    busy.used = Counter(pods=5000)
    assert choose(peer, [busy, free]) == (busy, "")
    stranger = {"metadata": {}, "spec": {"containers": [{"name": "c"}]}}
    assert choose(stranger, [busy, free]) == (free, "")


def test_the_largest_init_container_counts() -> None:
    def container(cpu: str) -> Object:
        return {"name": "c", "resources": {"requests": {"cpu": cpu}}}

    spec = {"containers": [container("1"), container("1")], "initContainers": [container("3")]}
    found, why = choose({"metadata": {}, "spec": spec}, [place("small", cpu="2")])
    assert found is None
    assert "1 Insufficient cpu" in why
    spec["initContainers"] = [container("2")]
    found, _ = choose({"metadata": {}, "spec": spec}, [place("small", cpu="2")])
    assert found


def test_no_node_at_all() -> None:
    pod = {"metadata": {}, "spec": {"containers": []}}
    assert choose(pod, []) == (None, "no nodes available to schedule pods")


def place(name: str, cpu: str = "4") -> Place:
    room = {"cpu": cpu, "memory": "8Gi", "pods": "10"}
    return Place({"metadata": {"name": name}, "spec": {}, "status": {"allocatable": room}})


def test_an_index_is_started_that_is_neither_done_nor_taken() -> None:
    job = attempt(completions=5)
    taken = [{"metadata": {"annotations": {job_rules.INDEX: "2"}}}]
    assert job_pods.missing_indexes(job, taken, completed={0}, count=2) == [1, 3]
