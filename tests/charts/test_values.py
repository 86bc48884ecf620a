"""Values are checked, and what is wrong is said so that it can be mended."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml

from dreambooth_operator.controller.app.settings import Settings
from tests.charts.rendering import CHART, SETS, render, values_of


@pytest.mark.parametrize("path", SETS, ids=lambda path: path.stem)
def test_lint_finds_nothing(path: Path) -> None:
    report = helm.lint(CHART, values_of(path.stem), strict=True, kube_version="v1.37.0")
    assert report["messages"] == report["errors"] == []


def test_lint_finds_nothing_without_values() -> None:
    report = helm.lint(CHART, {}, strict=True)
    assert report["messages"] == report["errors"] == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"replica": 2}, "at '': additional properties 'replica' not allowed"),
        ({"replicas": "2"}, "at '/replicas': got string, want integer"),
        ({"replicas": 11}, "at '/replicas': maximum: got 11, want 10"),
        ({"runAsUser": 0}, "at '/runAsUser': minimum: got 0, want 1"),
        ({"image": {"repository": "a@sha256:1"}}, "at '/image/repository'"),
        ({"image": {"repository": "a:1.2.3"}}, "at '/image/repository'"),
        ({"trainerImage": {"repository": "b:5000/a:1.2.3"}}, "at '/trainerImage/repository'"),
        ({"image": {"repository": "oci://b/a"}}, "at '/image/repository'"),
        ({"image": {"repository": "a", "digest": "abc"}}, "at '/image/digest'"),
        ({"image": {"repository": "a", "registry": "b"}}, "'registry' not allowed"),
        ({"image": {"repository": "a", "pullPolicy": "Sometimes"}}, "at '/image/pullPolicy'"),
        ({"settings": {"workers": 0}}, "at '/settings/workers': minimum: got 0, want 1"),
        ({"settings": {"worker": 1}}, "at '/settings': additional properties 'worker'"),
        ({"settings": {"metricsPort": 0}}, "at '/settings/metricsPort': minimum: got 0, want 1"),
        ({"settings": {"namespaces": ["a", "a"]}}, "at '/settings/namespaces': items at 0 and 1"),
        ({"fullnameOverride": "a.b"}, "at '/fullnameOverride'"),
        ({"settings": {"namespaces": ["Team A"]}}, "at '/settings/namespaces/0'"),
        ({"settings": {"log": {"level": "loud"}}}, "at '/settings/log/level'"),
        ({"settings": {"jobDefaults": {"nodes": 2}}}, "at '/settings/jobDefaults'"),
        (
            {"settings": {"jobDefaults": {"storage": {"endpointURL": "minio:9000"}}}},
            "at '/settings/jobDefaults/storage/endpointURL'",
        ),
        (
            {"settings": {"jobDefaults": {"storage": {"secretKey": "AKIA"}}}},
            "additional properties 'secretKey' not allowed",
        ),
        (
            {"settings": {"jobDefaults": {"podOverrides": {"spec": {"hostPID": True}}}}},
            "additional properties 'hostPID' not allowed",
        ),
        ({"settings": {"trainerImage": "a"}}, "additional properties 'trainerImage' not allowed"),
        ({"settings": {"leaderElection": {"enabled": False}}}, "'enabled' not allowed"),
        ({"crds": {"keep": "no"}}, "at '/crds/keep': got string, want boolean"),
        ({"podLabels": {"a": 1}}, "at '/podLabels/a': got number, want string"),
        ({"extraEnv": [{"value": "a"}]}, "at '/extraEnv/0': missing property 'name'"),
        (
            {"metrics": {"prometheusRule": {"thresholds": {"throughputRatio": 70}}}},
            "at '/metrics/prometheusRule/thresholds/throughputRatio': maximum",
        ),
        ({"metrics": {"podMonitor": {"interval": "often"}}}, "at '/metrics/podMonitor/interval'"),
        ({"networkPolicy": {"metricsFrom": [{}]}}, "at '/networkPolicy/metricsFrom/0'"),
        ({"networkPolicy": {"apiServerPorts": []}}, "at '/networkPolicy/apiServerPorts'"),
        ({"priorityClasses": [{"name": "a"}]}, "at '/priorityClasses/0': missing property 'value'"),
    ],
)
def test_wrong_values_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(helm.HelmValuesError) as refused:
        render(values_of("minimal", **changed))
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image": {}}, "image.repository: required; name an image that your nodes can pull"),
        ({"trainerImage": {}}, "trainerImage.repository: required; name an image"),
        ({"serviceAccount": {"create": False}}, "serviceAccount.name: required when"),
        ({"kueue": {"enabled": True}}, "kueue.quota: required when kueue.enabled is true"),
        (
            {"podLabels": {"app.kubernetes.io/name": "a"}},
            "podLabels: the label app.kubernetes.io/name is set by the chart; remove it",
        ),
        ({"commonLabels": {"helm.sh/chart": "a"}}, "commonLabels: the label helm.sh/chart is set"),
        (
            {"service": {"labels": {"app.kubernetes.io/instance": "a"}}},
            "service.labels: the label app.kubernetes.io/instance is set by the chart",
        ),
        (
            {"kueue": {"enabled": True, "quota": {"nvidia.com/gpu": 16}}},
            "kueue.namespaces: required when kueue.enabled is true and settings",
        ),
    ],
)
def test_values_that_cannot_work_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(helm.HelmRenderError) as refused:
        render(values_of("minimal", **changed))
    assert message in str(refused.value)


@pytest.mark.parametrize("repository", ["a", "b/a", "registry.example.com:5000/b/a"])
def test_repositories_are_accepted_with_and_without_a_host(repository: str) -> None:
    rendered = render(values_of("minimal", image={"repository": repository, "tag": "1"}))
    (container,) = rendered.pod["spec"]["containers"]
    assert container["image"] == f"{repository}:1"


def test_defaults_of_settings_are_the_operators() -> None:
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())["settings"]
    settings = Settings(trainer_image="any", **defaults)
    own = Settings(trainer_image="any")
    assert settings.model_copy(update={"log": own.log}) == own


def test_values_of_a_parent_chart_are_accepted() -> None:
    assert render(values_of("minimal", **{"global": {"region": "eu"}}))


def test_package_holds_all_that_a_release_needs(tmp_path: Path) -> None:
    archive = helm.package(CHART, destination=tmp_path)
    values = values_of("minimal")
    assert render(values, Path(archive)) == render(values)
    with helm.Chart.load(archive) as chart:
        assert {file["name"] for file in chart.files} >= {"README.md", "files/permissions.yaml"}


def test_version_of_the_images_is_the_charts(tmp_path: Path) -> None:
    chart = shutil.copytree(CHART, tmp_path / "chart")
    (chart / "Chart.yaml").write_text(
        (CHART / "Chart.yaml").read_text().replace("appVersion: 0.1.0", "appVersion: 7.8.9")
    )
    text = render(values_of("minimal"), chart).templates
    assert (
        "image: registry.example.com/dreambooth-operator:7.8.9" in text["templates/deployment.yaml"]
    )
    assert "dreambooth-trainer:7.8.9" in text["templates/settings.yaml"]
