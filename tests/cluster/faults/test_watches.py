"""Watches that end, fall silent, or cannot go on where they were."""

from __future__ import annotations

import time

from tests.cluster.apiserver.server import DoubleClient
from tests.cluster.faults.harness import Harness, counters

OPERATOR = "dreambooth-operator"
LISTED_SECONDS = 90
"""Lists are given time to be wrong: what they find is believed a while later."""


def test_watches_that_end_are_begun_again(harness: Harness, double: DoubleClient) -> None:
    before = harness.train()
    for _ in range(3):
        double.close_watches()
        harness.cluster.sleep(0.5)
    assert harness.training() == before
    harness.cluster.end(harness.running_pods("mug-0", 2)[0], 1)
    harness.wait_attempt("mug", 1)
    assert harness.status()["counters"] == counters(failures=1)


def test_what_silent_watches_do_not_tell_is_found_by_lists(
    harness: Harness, double: DoubleClient
) -> None:
    before = harness.train("other")
    harness.train()
    double.silence_watches(agent=OPERATOR)
    harness.cluster.end(harness.running_pods("mug-0", 2)[0], 1)
    harness.wait(lambda: harness.status().get("counters") == counters(failures=1), LISTED_SECONDS)
    assert harness.metric("resync_repairs_total") > 0
    assert harness.training("other") == before


def test_an_operator_that_hears_nothing_is_not_alive(
    harness: Harness, double: DoubleClient
) -> None:
    before = harness.train()
    assert harness.probe("/healthz") == ""
    double.silence_watches(agent=OPERATOR)

    def touched() -> str:
        label = {"metadata": {"labels": {"touched": str(int(time.monotonic()))}}}
        harness.cluster.patch(harness.path("services", "mug-ranks"), label)
        return harness.probe("/healthz")

    assert harness.wait(touched) == "the watch of services misses changes"
    assert harness.metric("watch_age_seconds", resource="services") > 0
    double.heal()
    harness.restart()  # as the kubelet does
    assert harness.probe("/healthz") == ""
    assert harness.training() == before


def test_what_was_deleted_before_watches_could_go_on_is_missed(
    harness: Harness, double: DoubleClient
) -> None:
    before = harness.train("other")
    harness.train()
    harness.train("gone")
    double.silence_watches(agent=OPERATOR)
    harness.cluster.delete(harness.batch_path("mug-0"), propagationPolicy="Background")
    harness.cluster.delete(harness.job_path("gone"), propagationPolicy="Background")
    harness.wait(lambda: harness.cluster.find(harness.batch_path("gone-0")) is None)
    double.forget_history()
    double.close_watches()
    harness.wait_attempt("mug", 1)
    assert harness.status()["counters"] == counters(disruptions=1)
    harness.wait(lambda: harness.metric("jobs") == 2)
    assert harness.training("other") == before
    harness.cluster.sleep(1)
    assert harness.cluster.find(harness.job_path("gone")) is None
    assert harness.children("gone") == []
