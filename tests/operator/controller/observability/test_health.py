"""What the operator says of itself: to Prometheus, and to the kubelet's probes."""

from __future__ import annotations

import itertools
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from dreambooth_api.models.status import AttemptStatus, Status
from dreambooth_operator.controller.decide.state.decision import Decision
from dreambooth_operator.controller.decide.state.observed import Observed, Reading
from dreambooth_operator.controller.kube.job_snapshots import JobSnapshot
from dreambooth_operator.controller.kube.kinds import JOB, POD, Kind
from dreambooth_operator.controller.kube.objects import Key
from dreambooth_operator.controller.kube.session import Session
from dreambooth_operator.controller.observability import health, probes
from dreambooth_operator.controller.observability.definitions import (
    JOB_METRICS,
    OPERATOR_METRICS,
)
from dreambooth_operator.controller.observability.health import HealthServer
from dreambooth_operator.controller.observability.job_metrics import MeasuredJob
from dreambooth_operator.controller.observability.metrics import Measurements, Metrics
from dreambooth_operator.controller.observability.probes import Probes
from dreambooth_operator.controller.watch.informer import WatchHealth
from dreambooth_operator.controller.watch.job_summary import summarize
from tests.operator.controller.world import dreambooth_job
from tests.slow_client import seconds_until_closed

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def _after(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


STARTED = _after(2)


def _seen(*attempts: AttemptStatus, started: datetime | None = STARTED) -> Observed:
    job = dreambooth_job()
    job.status = Status(attempts=list(attempts))
    view = JobSnapshot(
        key=Key("team-a", "mug"),
        name="mug-0",
        uid="u",
        version=1,
        owner="o",
        component="trainer",
        attempt=0,
        created=START,
        started=started,
    )
    return Observed(job=job, generation=1, created=START, attempts=(view,))


def _samples(metrics: Metrics) -> dict[str, float]:
    lines = generate_latest(metrics.registry).decode().splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {name.removeprefix("dreambooth_operator_"): float(value) for name, value in pairs}


def test_life_of_an_attempt_is_measured_once() -> None:
    metrics = Metrics()
    opened = AttemptStatus(number=0, started=START)
    running = opened.model_copy(update={"running": _after(5)})
    ended = running.model_copy(update={"ended": _after(35), "outcome": "Failed"})
    second = AttemptStatus(number=1, started=_after(36))
    steps = [[], [opened], [running], [running], [ended], [ended, second], [ended, second]]
    for before, after in itertools.pairwise(steps):
        metrics.changed(_seen(*before), Decision(status=Status(attempts=after)))
    samples = _samples(metrics)
    assert (samples["queue_seconds_count"], samples["queue_seconds_sum"]) == (1, 120)
    assert (samples["start_seconds_count"], samples["start_seconds_sum"]) == (1, 180)
    assert (samples["run_seconds_count"], samples["run_seconds_sum"]) == (1, 1800)
    assert samples['restarts_total{reason="Failed"}'] == 1


def test_start_is_measured_when_the_watch_of_jobs_lags_behind_that_of_pods() -> None:
    metrics = Metrics()
    opened = AttemptStatus(number=0, started=START)
    running = opened.model_copy(update={"running": _after(5)})
    metrics.changed(_seen(opened, started=None), Decision(status=Status(attempts=[running])))
    samples = _samples(metrics)
    assert (samples["queue_seconds_count"], samples["queue_seconds_sum"]) == (1, 0)
    assert (samples["start_seconds_count"], samples["start_seconds_sum"]) == (1, 300)


def test_first_attempt_is_no_restart() -> None:
    metrics = Metrics()
    started = Status(attempts=[AttemptStatus(number=0, started=START)])
    metrics.changed(_seen(), Decision(status=started))
    assert not [name for name in _samples(metrics) if name.startswith("restarts_total{")]


def test_events_are_counted() -> None:
    metrics = Metrics()
    metrics.api_responded("patch", "jobs", 201)
    metrics.failed("conflict")
    metrics.reconciled(0.1)
    metrics.repaired(POD, 3)
    metrics.progress_polled(Reading(START, "10.0.0.1", problem="no route"))
    metrics.set_leader(True)
    samples = _samples(metrics)
    assert samples['api_requests_total{code="201",resource="jobs",verb="patch"}'] == 1
    assert samples['reconcile_errors_total{kind="conflict"}'] == 1
    assert samples["reconcile_seconds_count"] == 1
    assert samples['resync_repairs_total{resource="pods"}'] == 3
    assert samples["progress_failures_total"] == 1
    assert samples["leader"] == 1


def test_gauges_are_measured_at_each_scrape() -> None:
    metrics = Metrics()
    summary = summarize({"metadata": {"creationTimestamp": "2026-03-01T12:00:00Z"}})
    summary = replace(summary, phase="Running")
    jobs = [MeasuredJob(Key("team-a", name), summary, 0) for name in ("mug", "cup")]
    measured: list[Measurements | None] = [Measurements(jobs, 4, 1.5, {"pods": 7}, 0.5), None]
    metrics.measure_with(lambda: measured[0])
    samples = _samples(metrics)
    assert samples['jobs{phase="Running"}'] == 2
    assert samples['jobs{phase="Failed"}'] == 0
    assert (samples["queue_depth"], samples["queue_oldest_seconds"]) == (4, 1.5)
    assert samples['watch_age_seconds{resource="pods"}'] == 7
    assert samples["api_answer_age_seconds"] == 0.5
    assert samples['dreambooth_job_gpus_in_use{job="cup",namespace="team-a"}'] == 0
    measured.pop(0)
    assert "queue_depth" not in _samples(metrics)


@dataclass
class Parts:
    """What probes look at."""

    last_answer: float | None = field(default_factory=time.monotonic)
    watches: dict[Kind, WatchHealth] = field(
        default_factory=lambda: {JOB: WatchHealth(), POD: WatchHealth()}
    )


@pytest.fixture
def parts() -> Parts:
    return Parts()


@pytest.fixture
def healthy(parts: Parts) -> Probes:
    made = Probes(cast(Session, parts), parts.watches, resync_seconds=100)
    made.watching = True
    return made


def test_healthy_operator_has_no_problem(healthy: Probes) -> None:
    assert (healthy.liveness(), healthy.readiness()) == ("", "")


def test_not_ready_before_everything_is_listed(healthy: Probes) -> None:
    healthy.watching = False
    assert healthy.readiness() == "the initial list is not complete"
    assert healthy.liveness() == ""
    healthy.standing_by = True
    assert healthy.readiness() == ""


def test_unreachable_api_server_affects_readiness_only(healthy: Probes, parts: Parts) -> None:
    parts.last_answer = time.monotonic() - probes.SILENT_SECONDS - 1
    parts.watches[POD] = WatchHealth(listed=0, misses=9)
    assert healthy.readiness() == "the API server does not answer"
    assert healthy.liveness() == ""


def test_operator_is_not_ready_before_the_first_response(healthy: Probes, parts: Parts) -> None:
    parts.last_answer = None
    assert healthy.readiness() == "the API server does not answer"


@pytest.mark.parametrize(("misses", "problem"), [(1, ""), (2, "the watch of pods misses changes")])
def test_watch_that_keeps_missing_changes_fails_the_liveness_probe(
    healthy: Probes, parts: Parts, misses: int, problem: str
) -> None:
    parts.watches[POD].misses = misses
    assert healthy.liveness() == problem


def test_kind_that_cannot_be_listed_for_long_fails_the_liveness_probe(
    healthy: Probes, parts: Parts
) -> None:
    parts.watches[JOB].listed = time.monotonic() - 300
    assert healthy.liveness() == ""
    parts.watches[JOB].listed = time.monotonic() - 361
    assert healthy.liveness() == "jobs cannot be listed"


def test_stuck_event_loop_fails_the_liveness_probe(
    healthy: Probes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "STUCK_SECONDS", -1.0)
    assert healthy.liveness() == "the event loop is stuck"


@pytest.fixture
def problems() -> dict[str, str]:
    return {"liveness": "", "readiness": ""}


@pytest.fixture
def url(problems: dict[str, str]) -> Iterator[str]:
    server = HealthServer(
        0, CollectorRegistry(), lambda: problems["liveness"], lambda: problems["readiness"]
    )
    yield f"http://127.0.0.1:{server.port}"
    server.close()


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_probes_respond_with_the_problem(url: str, problems: dict[str, Any]) -> None:
    assert _get(f"{url}/healthz") == (200, "ok")
    problems["readiness"] = "the initial list is not complete"
    assert _get(f"{url}/readyz") == (503, "the initial list is not complete")
    assert _get(f"{url}/healthz") == (200, "ok")
    assert _get(f"{url}/metrics")[0] == 200
    assert _get(f"{url}/elsewhere")[0] == 404


def test_connection_without_a_request_is_closed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health._Handler, "timeout", 0.2)
    address = urllib.parse.urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
        assert connection.recv(1) == b""


def test_request_that_never_ends_is_closed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health._Handler, "timeout", 0.5)
    address = urllib.parse.urlsplit(url)
    assert seconds_until_closed(str(address.hostname), address.port or 0, limit=10) < 5


def test_every_metric_is_defined_as_it_is_exposed() -> None:
    metrics = Metrics()
    metrics.measure_with(lambda: Measurements([], 0, 0, {}, 0))
    exposed = {
        f"{family.name}_total" if family.type == "counter" else family.name: family.type
        for family in metrics.registry.collect()
    }
    assert {each.name: each.kind for each in (*OPERATOR_METRICS, *JOB_METRICS)} == exposed
