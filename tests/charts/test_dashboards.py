"""The dashboards are consistent and query metrics that exist.

A real Prometheus evaluates their queries in tests/e2e/test_monitoring.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from dreambooth_charts.dashboards import dashboards
from dreambooth_charts.metrics_page import alerts, definitions
from tests.charts.promtool import needs_promtool, promtool
from tests.charts.rendering import CHART, render, values_of

Panel = dict[str, Any]
FILES = ("job.json", "jobs.json")
COLUMNS = 24
RULES = sorted((CHART / "files" / "rules").glob("*.yaml"))

each_dashboard = pytest.mark.parametrize("name", FILES)


def dashboard(name: str) -> dict[str, Any]:
    dashboard: dict[str, Any] = json.loads(dashboards()[name])
    return dashboard


def panels(name: str) -> list[Panel]:
    return [panel for panel in dashboard(name)["panels"] if panel["type"] != "row"]


def expressions(name: str) -> Iterator[str]:
    """Every query of a dashboard, with the variables filled in."""
    targets = [target for panel in panels(name) for target in panel["targets"]]
    for asked in [*targets, *dashboard(name)["annotations"].get("list", [])]:
        yield asked["expr"].replace("$__rate_interval", "1m")


def test_installed_dashboards_are_the_generated_ones() -> None:
    rendered = render(values_of("minimal", dashboards={"enabled": True}))
    maps = [m for m in rendered.of_kind("ConfigMap") if "dashboard" in m["metadata"]["name"]]
    assert {name: text for m in maps for name, text in m["data"].items()} == dashboards()
    assert all(len(text) < 500_000 for text in dashboards().values())  # of a ConfigMap's 1 MiB


def test_generating_again_gives_the_same() -> None:
    assert dashboards() == dashboards()


@each_dashboard
def test_panels_fill_rows_and_do_not_overlap(name: str) -> None:
    places = [panel["gridPos"] for panel in dashboard(name)["panels"]]
    assert all(place["x"] + place["w"] <= COLUMNS for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)
    by_line: dict[int, int] = {}
    for place in places:
        by_line[place["y"]] = by_line.get(place["y"], 0) + place["w"]
    assert set(by_line.values()) == {COLUMNS}


@each_dashboard
def test_panels_say_what_they_show(name: str) -> None:
    titles = [panel["title"] for panel in panels(name)]
    assert len(titles) == len(set(titles))
    numbers = [panel["id"] for panel in dashboard(name)["panels"]]
    assert len(numbers) == len(set(numbers))
    for panel in panels(name):
        assert len(panel["description"]) > 10, panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        several = len(panel["targets"]) > 1 and panel["type"] != "table"
        assert not several or all(target.get("legendFormat") for target in panel["targets"])


@each_dashboard
def test_queries_use_variables_that_there_are(name: str) -> None:
    known = {variable["name"] for variable in dashboard(name)["templating"]["list"]}
    used = {v for expr in expressions(name) for v in re.findall(r"\$([a-z]\w*)", expr)}
    assert used == {"namespace", "job"}
    assert used < known


@needs_promtool
def test_queries_are_promql(tmp_path: Path) -> None:
    every = [expr for name in FILES for expr in expressions(name)]
    rules = [{"record": f"query:{number}", "expr": expr} for number, expr in enumerate(every)]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    promtool("check", "rules", "--lint=none", file)


def test_queries_and_alerts_name_metrics_and_labels_that_there_are() -> None:
    series: dict[str, set[str]] = {}
    for each in definitions():
        ends = ("_bucket", "_sum", "_count") if each.kind == "histogram" else ("",)
        series |= {f"{each.name}{end}": {*each.labels, "le"} for end in ends}
    every = [expr for name in FILES for expr in expressions(name)]
    every += [alert["expr"] for alert in alerts(RULES)]
    for expr in every:
        for metric, selector in re.findall(r"(dreambooth_\w+)(?:\s*{([^}]*)})?", expr):
            assert metric in series, expr
            assert set(re.findall(r"(\w+)\s*(?:=|!=|=~|!~)\s*\"", selector)) <= series[metric], expr


def test_jobs_lead_to_the_dashboard_of_one() -> None:
    (table,) = (panel for panel in panels("jobs.json") if panel["type"] == "table")
    (link,) = (
        property["value"][0]["url"]
        for override in table["fieldConfig"]["overrides"]
        for property in override["properties"]
        if property["id"] == "links"
    )
    job = dashboard("job.json")
    assert link.startswith(f"/d/{job['uid']}?")
    passed = set(re.findall(r"var-(\w+)=", link))
    assert passed < {variable["name"] for variable in job["templating"]["list"]}
    columns = table["transformations"][1]["options"]["renameByName"].values()
    assert set(re.findall(r"__data.fields.(\w+)", link)) <= set(columns)
