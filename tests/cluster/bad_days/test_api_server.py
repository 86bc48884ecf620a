"""An API server that is out of reach, busy or broken."""

from __future__ import annotations

import time

import pytest

from tests.cluster.apiserver.server import DoubleClient
from tests.cluster.bad_days.day import Day, counters

AWAY_SECONDS = 4
SILENT_SECONDS = 30
"""After this long without an answer the operator says that the API server is away."""
OPERATOR = "dreambooth-operator"
STATUS = "/dreamboothjobs/.*/status"


@pytest.mark.parametrize("how", ["refuse", "hang"])
def test_training_goes_on_while_the_api_server_is_out_of_reach(day: Day, how: str) -> None:
    before = day.train()
    getattr(day.gateway, how)()
    day.cluster.sleep(AWAY_SECONDS)
    day.ranks["mug"].progress["step"] = 8
    day.gateway.heal()
    day.wait(day.reports)
    assert day.training() == before
    assert day.settles()


def test_a_rank_that_fails_while_the_api_server_is_out_of_reach_is_noticed(day: Day) -> None:
    day.train()
    day.gateway.refuse()
    day.cluster.end(day.running_pods("mug-0", 2)[1], 1)
    day.cluster.sleep(AWAY_SECONDS)
    day.gateway.heal()
    day.wait_attempt("mug", 1)
    assert day.training().attempts == (0, 1)
    assert day.status()["counters"] == counters(failures=1)
    assert day.events().count("AttemptFailed") == 1


def test_away_for_longer_it_is_alive_but_not_ready(day: Day) -> None:
    before = day.train()
    assert (day.probe("/healthz"), day.probe("/readyz")) == ("", "")
    day.gateway.hang()
    day.wait(lambda: day.probe("/readyz"), timeout=SILENT_SECONDS + 20)
    assert day.probe("/readyz") == "the API server does not answer"
    assert day.probe("/healthz") == ""
    assert day.metric("api_answer_age_seconds") > SILENT_SECONDS
    day.gateway.heal()
    day.wait(lambda: day.probe("/readyz") == "")
    assert day.training() == before


@pytest.mark.parametrize("code", [409, 429, 500, 503])
def test_refused_writes_are_tried_again(day: Day, double: DoubleClient, code: int) -> None:
    before = day.train()
    double.fail(agent=OPERATOR, method="PATCH|POST|PUT|DELETE", code=code, times=-1)
    day.ranks["mug"].progress["step"] = 8
    day.wait(lambda: day.metric("reconcile_errors_total") >= 2)
    double.heal()
    day.wait(day.reports)
    assert day.training() == before
    assert day.settles()


def test_a_busy_api_server_is_left_alone_for_as_long_as_it_asks(
    day: Day, double: DoubleClient
) -> None:
    day.train()
    double.fail(agent=OPERATOR, method="PATCH", path=STATUS, code=429, retry_after=6)
    day.ranks["mug"].progress["step"] = 8
    day.wait(lambda: day.metric("reconcile_errors_total", kind="too_many_requests") == 1)
    told = time.monotonic()
    day.wait(day.reports)
    assert time.monotonic() - told > 5


@pytest.mark.parametrize("code", [429, 500])
def test_an_operator_that_starts_while_nothing_can_be_read_waits(
    day: Day, double: DoubleClient, code: int
) -> None:
    before = day.train()
    day.operator.kill()
    double.fail(agent=OPERATOR, method="GET", path="/namespaces/", code=code, times=-1)
    day.operator.launch()
    day.wait(lambda: "not started yet" in day.operator.tail())
    assert day.probe("/readyz") == "not everything is listed yet"
    assert day.probe("/healthz") == ""
    double.heal()
    day.wait(lambda: day.probe("/readyz") == "")
    assert day.training() == before
    assert day.settles()


def test_an_attempt_that_could_be_made_only_in_part_is_finished_once(
    day: Day, double: DoubleClient
) -> None:
    day.train()
    double.fail(agent=OPERATOR, method="PATCH", path="/jobs/mug-1", code=500, times=2)
    double.fail(agent=OPERATOR, method="PATCH", path=STATUS, code=500, times=2)
    day.cluster.end(day.running_pods("mug-0", 2)[0], 1)
    day.wait_attempt("mug", 1)
    assert day.training().attempts == (0, 1)
    assert day.status()["counters"] == counters(failures=1)
    assert day.events().count("AttemptStarted") == 2
    assert day.settles()
