"""The ports of pods: named, usual, or chosen where the pods share their node's."""

from __future__ import annotations

from typing import Any

import pytest

from dreambooth_api.contract.environment import METRICS_PORT
from dreambooth_api.models.job import DreamBoothJob
from dreambooth_operator.controller.kube.pod_snapshots import pod_snapshot
from dreambooth_operator.manifests.ports import pod_ports
from dreambooth_operator.manifests.resources import attempt_job, service
from tests.operator.manifests.test_resources import environment, quickstart, trainer_of

HOST_NETWORK = {"spec": {"hostNetwork": True}}


def job(uid: str = "u", **runtime: Any) -> DreamBoothJob:
    made = quickstart({"globalBatch": 8}, **runtime)
    return made.model_copy(update={"metadata": made.metadata.model_copy(update={"uid": uid})})


def declared(job: DreamBoothJob, attempt: int = 0) -> dict[str, int]:
    """Ports of the trainer's container, by their names."""
    ports = trainer_of(attempt_job(job, attempt, "trainer:1"))["ports"]
    return {port["name"]: port["containerPort"] for port in ports}


def test_ports_are_fields() -> None:
    named = job(ports={"rendezvous": 31000, "metrics": 9500})
    assert declared(named) == {"metrics": 9500}
    values = environment(attempt_job(named, 0, "trainer:1"))
    assert values["MASTER_PORT"] == values["PET_MASTER_PORT"] == "31000"
    assert values[METRICS_PORT] == "9500"
    ports = {port["name"]: port["port"] for port in service(named, 0)["spec"]["ports"]}
    assert ports == {"rendezvous": 31000, "metrics": 9500}


def test_jobs_and_attempts_on_the_nodes_network_have_ports_of_their_own() -> None:
    used = [
        declared(job(uid, podOverrides=HOST_NETWORK, gpusPerNode=0, processesPerNode=4), attempt)
        for uid in ("a", "b")
        for attempt in (0, 1)
    ]
    assert all(set(ports) == {"rendezvous", *METRICS} for ports in used)
    numbers = [number for ports in used for number in ports.values()]
    assert len(numbers) == len(set(numbers)) == 20
    assert 9400 not in numbers
    # Neither a NodePort nor a port that the kernel hands out.
    assert all(20_000 <= number < 30_000 for number in numbers)


METRICS = ["metrics", "metrics-1", "metrics-2", "metrics-3"]


def test_deciding_again_chooses_the_same_ports() -> None:
    assert declared(job(podOverrides=HOST_NETWORK)) == declared(job(podOverrides=HOST_NETWORK))


@pytest.mark.parametrize("overrides", [{}, HOST_NETWORK])
@pytest.mark.parametrize("ports", [{"rendezvous": 9405}, {"metrics": 29490}, {"metrics": 65520}])
def test_named_port_and_chosen_ones_are_apart(
    ports: dict[str, int], overrides: dict[str, Any]
) -> None:
    chosen = pod_ports(job(ports=ports, podOverrides=overrides), 0)
    assert chosen.rendezvous not in range(chosen.metrics, chosen.metrics + 16)
    assert max(chosen.rendezvous, chosen.metrics + 15) <= 65_535
    assert {"rendezvous": chosen.rendezvous, "metrics": chosen.metrics}.items() >= ports.items()


@pytest.mark.parametrize(("ip", "host"), [("10.0.0.7", "10.0.0.7"), ("fd00::7", "[fd00::7]")])
def test_progress_is_read_from_the_port_that_the_pod_declares(ip: str, host: str) -> None:
    template = attempt_job(job(ports={"metrics": 9500}), 0, "trainer:1")["spec"]["template"]
    known = {"name": "p", "namespace": "n", "uid": "1", "resourceVersion": "1"}
    meta = template["metadata"] | known | {"creationTimestamp": "2026-01-01T00:00:00Z"}
    snapshot = pod_snapshot({"metadata": meta, "spec": template["spec"], "status": {"podIP": ip}})
    assert snapshot is not None
    assert snapshot.endpoint == f"{host}:9500"
