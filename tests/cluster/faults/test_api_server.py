"""An API server that is out of reach, busy or broken."""

from __future__ import annotations

import time

import pytest

from tests.cluster.apiserver.server import DoubleClient
from tests.cluster.faults.harness import Harness, counters, hasty

AWAY_SECONDS = 4
SILENT_SECONDS = 10
"""After this long without an answer the operator says that the API server is away."""
IMPATIENT = hasty(
    f"observability.probes:SILENT_SECONDS={SILENT_SECONDS}", "observability.probes:CHECK_SECONDS=2"
)
OPERATOR = "dreambooth-operator"
STATUS = "/dreamboothjobs/.*/status"


@pytest.mark.parametrize("how", ["refuse", "hang"])
def test_training_goes_on_while_the_api_server_is_out_of_reach(harness: Harness, how: str) -> None:
    before = harness.train()
    getattr(harness.gateway, how)()
    harness.cluster.sleep(AWAY_SECONDS)
    harness.progress_servers["mug"].progress["step"] = 8
    harness.gateway.heal()
    harness.wait(harness.reports)
    assert harness.training() == before
    assert harness.settles()


def test_a_rank_that_fails_while_the_api_server_is_out_of_reach_is_noticed(
    harness: Harness,
) -> None:
    harness.train()
    harness.gateway.refuse()
    harness.cluster.end(harness.running_pods("mug-0", 2)[1], 1)
    harness.cluster.sleep(AWAY_SECONDS)
    harness.gateway.heal()
    harness.wait_attempt("mug", 1)
    assert harness.training().attempts == (0, 1)
    assert harness.status()["counters"] == counters(failures=1)
    assert harness.events().count("AttemptFailed") == 1


@pytest.mark.parametrize("program", [IMPATIENT])
def test_away_for_longer_it_is_alive_but_not_ready(harness: Harness) -> None:
    before = harness.train()
    assert (harness.probe("/healthz"), harness.probe("/readyz")) == ("", "")
    harness.gateway.hang()
    harness.wait(lambda: harness.probe("/readyz"), timeout=SILENT_SECONDS + 50)
    assert harness.probe("/readyz") == "the API server does not answer"
    assert harness.probe("/healthz") == ""
    assert harness.metric("api_answer_age_seconds") > SILENT_SECONDS
    harness.gateway.heal()
    harness.wait(lambda: harness.probe("/readyz") == "")
    assert harness.training() == before


@pytest.mark.parametrize("code", [409, 429, 500, 503])
def test_refused_writes_are_tried_again(harness: Harness, double: DoubleClient, code: int) -> None:
    before = harness.train()
    double.fail(agent=OPERATOR, method="PATCH|POST|PUT|DELETE", code=code, times=-1)
    harness.progress_servers["mug"].progress["step"] = 8
    harness.wait(lambda: harness.metric("reconcile_errors_total") >= 2)
    double.heal()
    harness.wait(harness.reports)
    assert harness.training() == before
    assert harness.settles()


def test_a_busy_api_server_is_left_alone_for_as_long_as_it_asks(
    harness: Harness, double: DoubleClient
) -> None:
    harness.train()
    double.fail(agent=OPERATOR, method="PATCH", path=STATUS, code=429, retry_after=6)
    harness.progress_servers["mug"].progress["step"] = 8
    harness.wait(lambda: harness.metric("reconcile_errors_total", kind="too_many_requests") == 1)
    signalled = time.monotonic()
    harness.wait(harness.reports)
    assert time.monotonic() - signalled > 5


@pytest.mark.parametrize("code", [429, 500])
def test_an_operator_that_starts_while_nothing_can_be_read_waits(
    harness: Harness, double: DoubleClient, code: int
) -> None:
    before = harness.train()
    harness.operator.kill()
    double.fail(agent=OPERATOR, method="GET", path="/namespaces/", code=code, times=-1)
    harness.operator.launch()
    harness.wait(lambda: "not started yet" in harness.operator.tail())
    assert harness.probe("/readyz") == "the initial list is not complete"
    assert harness.probe("/healthz") == ""
    double.heal()
    harness.wait(lambda: harness.probe("/readyz") == "")
    assert harness.training() == before
    assert harness.settles()


def test_an_attempt_that_could_be_made_only_in_part_is_finished_once(
    harness: Harness, double: DoubleClient
) -> None:
    harness.train()
    double.fail(agent=OPERATOR, method="PATCH", path="/jobs/mug-1", code=500, times=2)
    double.fail(agent=OPERATOR, method="PATCH", path=STATUS, code=500, times=2)
    harness.cluster.end(harness.running_pods("mug-0", 2)[0], 1)
    harness.wait_attempt("mug", 1)
    assert harness.training().attempts == (0, 1)
    assert harness.status()["counters"] == counters(failures=1)
    assert harness.events().count("AttemptStarted") == 2
    assert harness.settles()
