"""The alerts, as the chart renders them, in the hands of Prometheus' own promtool."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.charts.promtool import needs_promtool, promtool
from tests.charts.rendering import CHART, render, values_of

CASES = Path(__file__).parent / "rules"
FILES = sorted(CASES.glob("*.yaml"))


@pytest.fixture(scope="module")
def groups() -> list[dict[str, Any]]:
    """The groups of the rendered PrometheusRule."""
    values = values_of("minimal", metrics={"prometheusRule": {"enabled": True}})
    found: list[dict[str, Any]] = render(values).one("PrometheusRule")["spec"]["groups"]
    return found


@pytest.fixture(scope="module")
def alerts(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [rule for group in groups for rule in group["rules"]]


@needs_promtool
def test_rules_are_valid(groups: list[dict[str, Any]], tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump({"groups": groups}))
    promtool("check", "rules", "--lint=all", "--lint-fatal", rules)


@needs_promtool
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_alerts_fire_when_they_should_and_only_then(
    groups: list[dict[str, Any]], file: Path, tmp_path: Path
) -> None:
    # promtool wants every annotation repeated; the description is for people.
    short = yaml.safe_load(yaml.safe_dump({"groups": groups}))
    for group in short["groups"]:
        for rule in group["rules"]:
            del rule["annotations"]["description"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(short))
    promtool("test", "rules", shutil.copy(file, tmp_path))


def cases() -> Iterator[tuple[str, bool]]:
    """(alert, whether it is to fire) of every case."""
    for file in FILES:
        for test in yaml.safe_load(file.read_text())["tests"]:
            for case in test["alert_rule_test"]:
                yield case["alertname"], bool(case["exp_alerts"])


def test_each_alert_has_a_case_for_firing_and_one_for_not(alerts: list[dict[str, Any]]) -> None:
    wanted = {(alert["alert"], fires) for alert in alerts for fires in (True, False)}
    assert set(cases()) == wanted


def test_each_alert_says_what_is_wrong_and_what_to_do(alerts: list[dict[str, Any]]) -> None:
    for alert in alerts:
        assert alert["labels"]["severity"] in ("critical", "warning", "info"), alert["alert"]
        assert len(alert["annotations"]["summary"]) < 140
        assert "kubectl" in alert["annotations"]["description"] or (
            "dashboard" in alert["annotations"]["description"]
        )


def test_thresholds_are_values(groups: list[dict[str, Any]]) -> None:
    assert "${" not in yaml.safe_dump(groups)
    values = values_of("minimal", metrics={"prometheusRule": {"enabled": True}})
    names = yaml.safe_load((CHART / "values.yaml").read_text())["metrics"]["prometheusRule"]
    changed = {name: 0.123 + number / 1000 for number, name in enumerate(names["thresholds"])}
    values["metrics"]["prometheusRule"]["thresholds"] = changed
    text = yaml.safe_dump(render(values).one("PrometheusRule")["spec"])
    assert [name for name, value in changed.items() if str(value) not in text] == []


def test_alerts_about_jobs_name_the_job(alerts: list[dict[str, Any]]) -> None:
    for alert in alerts:
        text = alert["annotations"]["summary"]
        about_job = "{{ $labels.namespace }}/{{ $labels.job }}" in text
        assert about_job == ("Operator" not in alert["alert"])
