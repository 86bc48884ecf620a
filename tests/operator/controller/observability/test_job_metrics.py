"""The Prometheus series of each job, from the job's own body."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.core import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from dreambooth_operator.controller.kube.objects import Key
from dreambooth_operator.controller.kube.pod_snapshots import PodSnapshot
from dreambooth_operator.controller.observability.definitions import JOB_METRICS
from dreambooth_operator.controller.observability.job_metrics import (
    MeasuredJob,
    collect,
    count_gpu_pods,
)
from dreambooth_operator.controller.watch.job_summary import summarize
from tests.operator.controller.parts import job_body

LIMIT = 16
"""Series of one job."""


def minute(number: int) -> str:
    return f"2026-03-01T12:{number:02d}:00Z"


def unix(number: int) -> float:
    return datetime(2026, 3, 1, 12, number, tzinfo=UTC).timestamp()


def snapshot(status: dict[str, Any], name: str = "mug", pods: int = 0, **runtime: Any) -> Any:
    body = job_body("art", name)
    body["metadata"]["creationTimestamp"] = minute(0)
    body["spec"]["runtime"] = runtime
    return MeasuredJob(Key("art", name), summarize(body | {"status": status}), pods)


class Jobs(Collector):
    """A registry's view of some jobs."""

    def __init__(self, *jobs: MeasuredJob) -> None:
        self._jobs = jobs

    def collect(self) -> list[Metric]:
        return list(collect(self._jobs))


def samples(*jobs: MeasuredJob) -> dict[str, float]:
    """What Prometheus reads, by name and labels."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Jobs(*jobs))
    lines = generate_latest(registry).decode().splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {name.removeprefix("dreambooth_job_"): float(value) for name, value in pairs}


def condition(kind: str, status: str, at: int) -> dict[str, Any]:
    return {
        "type": kind,
        "status": status,
        "reason": "Any",
        "message": "",
        "lastTransitionTime": minute(at),
    }


def attempt(number: int, started: int, **more: Any) -> dict[str, Any]:
    return {"number": number, "started": minute(started), **more}


def test_running_job_has_all_series() -> None:
    status = {
        "phase": "Running",
        "stage": "Training",
        "progress": {"step": 420, "totalSteps": 800},
        "lastCheckpoint": {"step": 400, "uri": "s3://b/c", "time": minute(9)},
        "counters": {"failures": 1, "stalls": 2},
        "attempts": [
            attempt(0, 1, running=minute(2), ended=minute(4), outcome="Failed", exitCode=1),
            attempt(1, 5, running=minute(6)),
        ],
        "artifacts": {"output": "s3://b/art/mug/u"},
    }
    found = samples(snapshot(status, pods=2, nodes=2, gpusPerNode=8, queue="gpus"))
    of = 'job="mug",namespace="art"'
    assert found == {
        f'info{{{of},output="s3://b/art/mug/u",queue="gpus"}}': 1,
        f'phase{{{of},phase="Running",stage="Training"}}': 1,
        f"phase_start_timestamp_seconds{{{of}}}": unix(6),
        f"gpus_requested{{{of}}}": 16,
        f"gpus_in_use{{{of}}}": 16,
        f"step{{{of}}}": 420,
        f"target_steps{{{of}}}": 800,
        f"checkpoint_step{{{of}}}": 400,
        f"checkpoint_timestamp_seconds{{{of}}}": unix(9),
        f'attempt_start_timestamp_seconds{{attempt="1",{of}}}': unix(5),
        f'attempt_end_timestamp_seconds{{attempt="0",exit_code="1",{of},outcome="Failed"}}': unix(
            4
        ),
        f'interruptions_total{{{of},reason="Failed"}}': 1,
        f'interruptions_total{{{of},reason="Stalled"}}': 2,
        f'interruptions_total{{{of},reason="Disrupted"}}': 0,
        f'interruptions_total{{{of},reason="Preempted"}}': 0,
    }
    assert len(found) <= LIMIT


def test_new_job_has_series_at_once() -> None:
    found = samples(snapshot({}))
    assert found['phase{job="mug",namespace="art",phase="Pending",stage=""}'] == 1
    assert found['phase_start_timestamp_seconds{job="mug",namespace="art"}'] == unix(0)
    assert found['interruptions_total{job="mug",namespace="art",reason="Stalled"}'] == 0
    assert not [name for name in found if name.startswith(("checkpoint", "attempt"))]


def test_status_with_a_time_without_a_zone_counts_as_empty() -> None:
    found = samples(snapshot({"phase": "Running", "completionTime": "2026-03-01T12:00:00"}))
    assert found['phase{job="mug",namespace="art",phase="Pending",stage=""}'] == 1


def test_unreadable_status_counts_as_empty() -> None:
    found = samples(snapshot({"phase": "Dreaming", "attempts": 7}, nodes="many"))
    assert found['phase{job="mug",namespace="art",phase="Pending",stage=""}'] == 1
    assert found['gpus_requested{job="mug",namespace="art"}'] == 1


STARTED = attempt(0, 3)
RUNNING = attempt(0, 3, running=minute(5))
ENDED = attempt(0, 3, running=minute(5), ended=minute(8), outcome="Failed")
PASSED = condition("PreflightPassed", "True", 2)


@pytest.mark.parametrize(
    ("status", "since"),
    [
        ({"phase": "Preflight"}, 0),
        ({"phase": "Suspended", "conditions": [PASSED]}, 2),
        ({"phase": "Starting", "conditions": [PASSED], "attempts": [STARTED]}, 3),
        ({"phase": "Queued", "conditions": [condition("Queued", "True", 3)]}, 3),
        (
            {
                "phase": "Starting",
                "conditions": [condition("Queued", "False", 4)],
                "attempts": [STARTED],
            },
            4,
        ),
        ({"phase": "Running", "attempts": [RUNNING]}, 5),
        # A queue took the nodes back from an attempt that had run.
        (
            {
                "phase": "Queued",
                "conditions": [condition("Queued", "True", 7)],
                "attempts": [STARTED],
            },
            7,
        ),
        ({"phase": "Restarting", "attempts": [ENDED]}, 8),
        ({"phase": "Failed", "attempts": [ENDED], "completionTime": minute(9)}, 9),
    ],
)
def test_phase_began_with_the_last_change(status: dict[str, Any], since: int) -> None:
    found = samples(snapshot(status))
    assert found['phase_start_timestamp_seconds{job="mug",namespace="art"}'] == unix(since)


def test_gpus_are_in_use_while_pods_hold_them() -> None:
    waiting = snapshot({"phase": "Queued"}, "cup", nodes=2, gpusPerNode=4)
    half = snapshot({"phase": "Starting"}, "mug", pods=1, nodes=2, gpusPerNode=4)
    found = samples(waiting, half)
    assert found['gpus_requested{job="cup",namespace="art"}'] == 8
    assert found['gpus_in_use{job="cup",namespace="art"}'] == 0
    assert found['gpus_in_use{job="mug",namespace="art"}'] == 4


def test_pods_hold_gpus_from_scheduling_until_they_end() -> None:
    waits = PodSnapshot(
        key=Key("art", "mug"),
        name="mug-0-0",
        uid="p",
        version=1,
        job_uid="j",
        component="trainer",
        attempt=0,
        index=0,
        created=datetime(2026, 3, 1, tzinfo=UTC),
    )
    pulls = replace(waits, node="a")
    runs = replace(pulls, phase="Running")
    ended, gone = replace(runs, phase="Failed"), replace(runs, gone=True)
    checks = replace(runs, component="preflight")
    assert count_gpu_pods([waits, pulls, runs, ended, gone, checks]) == 2


def test_deleted_job_leaves_no_series() -> None:
    assert [name for name in samples(snapshot({}, "cup")) if "mug" in name] == []
    assert samples() == {}


def test_every_series_is_defined() -> None:
    names = {definition.name for definition in JOB_METRICS}
    assert {name.partition("{")[0] for name in samples(snapshot({}))} <= {
        name.removeprefix("dreambooth_job_") for name in names
    }
    assert all(definition.labels[:2] == ("namespace", "job") for definition in JOB_METRICS)
