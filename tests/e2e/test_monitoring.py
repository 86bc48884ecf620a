"""A real Prometheus scrapes a job and its operator as the chart configures it.

It evaluates every query of the chart's dashboards and alerts, and each returns data.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from tests.charts.rendering import Rendered, render, values_of
from tests.cluster.kubectl import Kubectl, eventually
from tests.e2e.cluster import Cluster, Setup, fresh_cluster
from tests.e2e.jobs import small_job
from tests.e2e.prometheus import Prometheus, configuration, pod_discovery

pytestmark = [
    pytest.mark.own_nodes,
    pytest.mark.skipif(
        shutil.which("prometheus") is None and "CI" not in os.environ,
        reason="needs Prometheus: apt-get install prometheus",
    ),
]
NAME = "mug"
EMPTY = {
    "GPU memory",
    "Images made",
    "Images waiting, and requests refused",
    "Time of requests",
}
"""Panels that may be empty: the job trains on CPUs, and no images are served."""
ENABLED = {"enabled": True}
EVALUATION = {
    "encoders": {
        "image": "s3://dreambooth/models/tiny-dino",
        "text": "s3://dreambooth/models/tiny-clip",
    },
    "count": 2,
    "every": 5,
    "holdOut": 1,
}
"""Fills the panels of scores."""
VALUES = values_of(
    "minimal",
    metrics={"serviceMonitor": ENABLED, "podMonitor": ENABLED, "prometheusRule": ENABLED},
    dashboards=ENABLED,
)


@dataclass(frozen=True)
class Watched:
    """A job under way, and the Prometheus that watches it."""

    cluster: Cluster
    prometheus: Prometheus
    chart: Rendered
    began: float
    """When the job was made."""

    def filled(self, text: str) -> str:
        """A query of a dashboard, with what Grafana puts in for a job of this namespace."""
        known = {"namespace": self.cluster.namespace, "job": NAME, "__rate_interval": "20s"}
        return re.sub(r"\$(\w+)", lambda found: known.get(found[1], found[0]), text)

    def ask(self, text: str) -> list[tuple[dict[str, str], float]]:
        """What a query finds now."""
        return self.prometheus.ask(self.filled(text))

    def shown(self, target: dict[str, Any]) -> list[float]:
        """The numbers that a query of a panel finds, now or since the job was made."""
        if target.get("instant"):
            found = [value for _, value in self.ask(target["expr"])]
        else:
            found = self.prometheus.ask_since(self.began, self.filled(target["expr"]))
        return [value for value in found if math.isfinite(value)]

    @property
    def dashboards(self) -> dict[str, Any]:
        """The dashboards by the name of their file, as the chart installs them."""
        maps = [m for m in self.chart.of_kind("ConfigMap") if "dashboard" in m["metadata"]["name"]]
        return {name: json.loads(text) for m in maps for name, text in m["data"].items()}


@pytest.fixture(scope="module")
def watched(setup: Setup, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A job that trains, has saved, and was scraped for a while."""
    setup.operator.start()
    folder = tmp_path_factory.mktemp("prometheus")
    chart = render(VALUES)
    address = setup.operator.url.removeprefix("http://")
    with ExitStack() as stack:
        pods = stack.enter_context(pod_discovery(Kubectl(setup.plane.kubeconfig)))
        settings = configuration(chart, pods, address, folder / "rules.yaml")
        prometheus = Prometheus(folder, settings)
        stack.callback(prometheus.stop)
        # Prometheus first scrapes five seconds after its start. A start of an attempt that was
        # counted before is no increase, and its panel stays empty.
        assert until(lambda: prometheus.ask("dreambooth_operator_start_seconds_count") != [])
        with fresh_cluster(setup) as cluster:
            began = time.time()
            job = small_job(setup.storage, NAME, steps=100_000, every=5, nodes=1)
            job["spec"]["runtime"]["processesPerNode"] = 2
            job["spec"]["evaluation"] = EVALUATION
            cluster.apply(job)
            cluster.wait_saved(NAME, 10, timeout=240)
            cluster.wait(NAME, lambda job: "lastCheckpoint" in job["status"])
            time.sleep(3)  # some scrapes more
            yield Watched(cluster, prometheus, chart, began)


def queries(dashboard: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(panel, query) of all queries."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target


def test_both_dashboards_are_installed(watched: Watched) -> None:
    assert {name: found["uid"] for name, found in watched.dashboards.items()} == {
        "jobs.json": "dreambooth-jobs",
        "job.json": "dreambooth-job",
    }


@pytest.mark.parametrize("name", ["jobs.json", "job.json"])
def test_every_query_of_a_running_job_finds_something(watched: Watched, name: str) -> None:
    asked = list(queries(watched.dashboards[name]))
    assert len(asked) > 15
    empty = {panel: query["expr"] for panel, query in asked if not watched.shown(query)}
    assert {panel: expr for panel, expr in empty.items() if panel not in EMPTY} == {}


@pytest.mark.parametrize("name", ["jobs.json", "job.json"])
def test_namespaces_and_jobs_can_be_chosen(watched: Watched, name: str) -> None:
    wanted = {"namespace": watched.cluster.namespace, "job": NAME}
    variables = {each["name"]: each for each in watched.dashboards[name]["templating"]["list"]}
    for label, value in wanted.items():
        asked = re.fullmatch(r"label_values\((.*), (\w+)\)", variables[label]["query"]["query"])
        assert asked is not None
        series = {"match[]": watched.filled(asked[1])}
        assert value in watched.prometheus.get(f"label/{asked[2]}/values", **series)


def test_every_alert_can_be_evaluated_and_a_healthy_job_raises_none(watched: Watched) -> None:
    groups = watched.prometheus.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    wanted = watched.chart.one("PrometheusRule")["spec"]["groups"]
    assert len(rules) == sum(len(group["rules"]) for group in wanted)
    assert {
        rule["name"]: rule.get("lastError", "") for rule in rules if rule["health"] != "ok"
    } == {}
    assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []


def test_series_of_trainer_and_operator_name_the_job_alike(watched: Watched) -> None:
    """Prometheus' own labels `job` and `namespace` of a target stand back."""
    of_job = f'namespace="{watched.cluster.namespace}", job="{NAME}"'
    ranks = watched.ask(f"dreambooth_trainer_step{{{of_job}}}")
    assert {labels["rank"] for labels, _ in ranks} == {"0", "1"}
    assert len({labels["pod"] for labels, _ in ranks}) == 1  # each rank has a port of its own
    assert len(watched.ask(f"dreambooth_job_info{{{of_job}}}")) == 1
    assert watched.ask('{exported_job!="", __name__=~"dreambooth_.*"}') == []
    assert watched.ask('{exported_namespace!="", __name__=~"dreambooth_.*"}') == []


def test_time_of_a_step_is_all_accounted_for(watched: Watched) -> None:
    (panel,) = (p for p in watched.dashboards["job.json"]["panels"] if p["title"] == "Step time")
    parts = {each["legendFormat"]: watched.ask(each["expr"])[0][1] for each in panel["targets"]}
    assert parts.keys() == {"compute", "data", "checkpoint"}
    assert all(value > 0 for value in parts.values())
    assert parts["data"] < parts["compute"] < 5


def test_attempts_are_marked_where_they_began_and_ended(watched: Watched) -> None:
    began, ended = watched.dashboards["job.json"]["annotations"]["list"]
    assert began["useValueForTime"] is ended["useValueForTime"] is True
    ((labels, milliseconds),) = watched.ask(began["expr"])
    assert labels == {"attempt": "0"}
    assert time.time() - 600 < milliseconds / 1000 < time.time()
    assert watched.ask(ended["expr"]) == []

    cluster = watched.cluster
    cluster.kill_rank(cluster.wait_pod(NAME, 0))
    cluster.wait(NAME, lambda job: len(job["status"]["attempts"]) == 2)
    assert until(lambda: [labels for labels, _ in watched.ask(began["expr"])] == [{"attempt": "1"}])
    ((labels, _),) = watched.ask(ended["expr"])
    assert labels == {"attempt": "0", "outcome": "Failed", "exit_code": "137"}
    failed = 'dreambooth_job_interruptions_total{namespace="$namespace", reason="Failed"}'
    assert [value for _, value in watched.ask(failed)] == [1]


def test_deleted_job_leaves_no_series(watched: Watched) -> None:
    series = '{__name__=~"dreambooth_job_.*", namespace="$namespace"}'
    assert watched.ask(series)
    watched.cluster.delete(NAME)
    assert until(lambda: watched.ask(series) == [])


def until(condition: Callable[[], bool]) -> bool:
    """Whether it comes true while Prometheus scrapes a few times."""
    return eventually(condition, 15)
