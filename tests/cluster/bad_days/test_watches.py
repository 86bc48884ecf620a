"""Watches that end, fall silent, or cannot go on where they were."""

from __future__ import annotations

import time

from tests.cluster.apiserver.server import DoubleClient
from tests.cluster.bad_days.day import Day, counters

OPERATOR = "dreambooth-operator"
LISTED_SECONDS = 90
"""Lists are given time to be wrong: what they find is believed a while later."""


def test_watches_that_end_are_begun_again(day: Day, double: DoubleClient) -> None:
    before = day.train()
    for _ in range(3):
        double.close_watches()
        day.cluster.sleep(0.5)
    assert day.training() == before
    day.cluster.end(day.running_pods("mug-0", 2)[0], 1)
    day.wait_attempt("mug", 1)
    assert day.status()["counters"] == counters(failures=1)


def test_what_silent_watches_do_not_tell_is_found_by_lists(day: Day, double: DoubleClient) -> None:
    before = day.train("other")
    day.train()
    double.silence_watches(agent=OPERATOR)
    day.cluster.end(day.running_pods("mug-0", 2)[0], 1)
    day.wait(lambda: day.status().get("counters") == counters(failures=1), LISTED_SECONDS)
    assert day.metric("resync_repairs_total") > 0
    assert day.training("other") == before


def test_an_operator_that_hears_nothing_is_not_alive(day: Day, double: DoubleClient) -> None:
    before = day.train()
    assert day.probe("/healthz") == ""
    double.silence_watches(agent=OPERATOR)

    def touched() -> str:
        label = {"metadata": {"labels": {"touched": str(int(time.monotonic()))}}}
        day.cluster.patch(day.path("services", "mug-ranks"), label)
        return day.probe("/healthz")

    assert day.wait(touched) == "the watch of services misses changes"
    assert day.metric("watch_age_seconds", resource="services") > 0
    double.heal()
    day.restart()  # as the kubelet does
    assert day.probe("/healthz") == ""
    assert day.training() == before


def test_what_was_deleted_before_watches_could_go_on_is_missed(
    day: Day, double: DoubleClient
) -> None:
    before = day.train("other")
    day.train()
    day.train("gone")
    double.silence_watches(agent=OPERATOR)
    day.cluster.delete(day.batch_path("mug-0"), propagationPolicy="Background")
    day.cluster.delete(day.job_path("gone"), propagationPolicy="Background")
    day.wait(lambda: day.cluster.find(day.batch_path("gone-0")) is None)
    double.forget_history()
    double.close_watches()
    day.wait_attempt("mug", 1)
    assert day.status()["counters"] == counters(disruptions=1)
    day.wait(lambda: day.metric("jobs") == 2)
    assert day.training("other") == before
    day.cluster.sleep(1)
    assert day.cluster.find(day.job_path("gone")) is None
    assert day.children("gone") == []
