"""The chart renders to objects that are recorded, valid, and fit the operator."""

from __future__ import annotations

import functools
import json
import os
import shutil
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from dreambooth_api.codegen.schema import custom_resource_definition
from dreambooth_api.contract.environment import DEFAULT_METRICS_PORT
from dreambooth_operator.controller.app import permissions
from dreambooth_operator.controller.app.settings import LeaderElection, read_settings
from dreambooth_operator.controller.decide.defaults import JobDefaults
from dreambooth_operator.manifests import names
from tests.charts.rendering import (
    CHART,
    DEFINITION,
    NAMESPACE,
    RELEASE,
    SETS,
    Rendered,
    quickstart,
    render,
    values_of,
)

HERE = Path(__file__).parent
GOLDEN = HERE / "golden"
OF_OTHERS = {
    "ClusterQueue",
    "HTTPRoute",
    "LocalQueue",
    "PodMonitor",
    "PrometheusRule",
    "ResourceFlavor",
    "ServiceMonitor",
}
"""Kinds that Kubernetes itself does not know, so no schema of them is published with it."""

every_set = pytest.mark.parametrize("path", SETS, ids=lambda path: path.stem)


@functools.cache
def of_set(path: Path) -> Rendered:
    return render(values_of(path.stem))


@functools.cache
def validate(manifest: str, version: str) -> None:
    """Raise when it is not valid. Many objects are the same in all sets."""
    kubernetes_validate.validate(json.loads(manifest), version, strict=True)


@every_set
def test_objects_and_notes_are_as_recorded(path: Path) -> None:
    rendered = of_set(path)
    texts = {
        GOLDEN / path.name: "".join(
            f"# {source}\n{text.strip()}\n"
            for source, text in rendered.templates.items()
            if source != DEFINITION  # it is recorded in crds/
        ),
        GOLDEN / f"{path.stem}.txt": rendered.notes,
    }
    for golden, text in texts.items():
        if os.environ.get("UPDATE_GOLDEN"):
            golden.write_text(text)
        assert text == golden.read_text()


def test_every_golden_file_has_values() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == {path.stem for path in SETS}


@pytest.mark.parametrize("version", ["1.33", "1.37"])
@every_set
def test_objects_are_valid_in_the_published_schemas(path: Path, version: str) -> None:
    for manifest in of_set(path).manifests:
        if manifest["kind"] not in OF_OTHERS:
            validate(json.dumps(manifest), version)


@every_set
def test_namespaces_are_named_where_they_matter(path: Path) -> None:
    cluster_wide = {
        "ClusterQueue",
        "ClusterRole",
        "ClusterRoleBinding",
        "PriorityClass",
        "ResourceFlavor",
    }
    for manifest in of_set(path).manifests:
        assert ("namespace" in manifest["metadata"]) == (manifest["kind"] not in cluster_wide)


@every_set
def test_no_two_objects_are_the_same(path: Path) -> None:
    identities = [
        (m["kind"], m["metadata"]["name"], m["metadata"].get("namespace"))
        for m in of_set(path).manifests
    ]
    assert len(identities) == len(set(identities))


@every_set
def test_operator_reads_the_settings(path: Path, tmp_path: Path) -> None:
    rendered = of_set(path)
    file = tmp_path / "settings.yaml"
    file.write_text(rendered.one("ConfigMap")["data"]["settings.yaml"])
    settings = read_settings(file)
    given: dict[str, Any] = values_of(path.stem).get("settings", {})
    image = settings.trainer_image
    assert image.startswith("registry.example.com/dreambooth-trainer")
    assert settings.namespaces == given.get("namespaces", [])
    assert settings.job_defaults == JobDefaults.model_validate(given.get("jobDefaults", {}))
    (port,) = rendered.one("Service")["spec"]["ports"]
    assert settings.metrics_port == port["port"] == given.get("metricsPort", 8080)


def test_operator_is_started_with_the_settings_that_are_mounted() -> None:
    spec = render(values_of("minimal")).pod["spec"]
    (container,) = spec["containers"]
    (mount,) = container["volumeMounts"]
    (volume,) = spec["volumes"]
    assert "command" not in container
    program, option, file = container["args"]
    package = tomllib.loads((HERE.parents[1] / "operator" / "pyproject.toml").read_text())
    assert program in package["project"]["scripts"]
    assert (option, file) == ("--settings", f"{mount['mountPath']}/settings.yaml")
    assert mount["name"] == volume["name"]
    assert volume["configMap"]["name"] == RELEASE


def test_lease_lies_in_the_releases_namespace(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(render(values_of("available")).one("ConfigMap")["data"]["settings.yaml"])
    assert read_settings(file).leader_election == LeaderElection(
        enabled=True, namespace=NAMESPACE, name=RELEASE, lease_seconds=30, renew_seconds=10
    )


def test_changed_settings_start_new_pods() -> None:
    def annotations(**settings: Any) -> dict[str, str]:
        values = values_of("minimal", settings=settings)
        annotations: dict[str, str] = render(values).pod["metadata"]["annotations"]
        return annotations

    assert annotations() == annotations()
    assert annotations() != annotations(workers=16)


@pytest.mark.parametrize("name", ["minimal", "namespaces"])
def test_operator_may_do_what_it_does_and_no_more(name: str) -> None:
    values = values_of(name, rbac={"aggregate": False})
    watched = values.get("settings", {}).get("namespaces", [])
    rendered = render(values)
    kinds = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
    granted = [manifest for kind in kinds for manifest in rendered.of_kind(kind)]
    for manifest in granted:
        del manifest["metadata"]["labels"]
    wanted = permissions.manifests(NAMESPACE, watched)
    assert sorted(granted, key=str) == sorted(wanted, key=str)


def test_users_of_a_namespace_may_use_its_jobs() -> None:
    roles = {m["metadata"]["name"]: m for m in render(values_of("minimal")).of_kind("ClusterRole")}
    verbs = {
        name: {verb for rule in roles[f"{RELEASE}-{name}"]["rules"] for verb in rule["verbs"]}
        for name in ("view", "edit")
    }
    assert verbs["view"] == {"get", "list", "watch"}
    assert {"create", "update", "patch", "delete"} <= verbs["edit"]
    of_edit = roles[f"{RELEASE}-edit"]["metadata"]["labels"]
    assert "rbac.authorization.k8s.io/aggregate-to-view" not in of_edit


@pytest.mark.parametrize("version", ["1.33", "1.37"])
def test_definition_is_valid_in_the_published_schemas(version: str) -> None:
    (definition,) = render(values_of("minimal")).definitions
    validate(json.dumps(definition), version)


@pytest.mark.parametrize(("name", "kept"), [("minimal", True), ("throwaway", False)])
def test_definition_is_the_generated_one(name: str, kept: bool) -> None:
    (definition,) = render(values_of(name)).definitions
    annotations = definition["metadata"].pop("annotations", {})
    del definition["metadata"]["labels"]
    assert definition == custom_resource_definition()
    assert (annotations == {"helm.sh/resource-policy": "keep"}) is kept


def test_definition_is_never_installed_behind_the_values() -> None:
    assert not (CHART / "crds").exists()
    assert render(values_of("by-hand")).definitions == []


def test_pods_of_jobs_are_found_by_their_labels() -> None:
    of_job = names.labels(quickstart(), names.TRAINER, 0).items()
    rendered = render(values_of("monitored"))
    assert rendered.one("PodMonitor")["spec"]["selector"]["matchLabels"].items() <= of_job
    rendered = render(values_of("guarded"))
    operator, trainer = rendered.of_kind("NetworkPolicy")
    assert trainer["spec"]["podSelector"]["matchLabels"].items() <= of_job
    (to_jobs,) = (rule for rule in operator["spec"]["egress"] if "to" in rule)
    (peer,) = to_jobs["to"]
    assert peer["podSelector"]["matchLabels"].items() <= of_job
    assert [port["port"] for port in to_jobs["ports"]] == [DEFAULT_METRICS_PORT]


def test_pod_of_the_operator_is_found_by_its_labels() -> None:
    rendered = render(
        values_of(
            "monitored", networkPolicy={"enabled": True}, podDisruptionBudget={"enabled": True}
        )
    )
    labels = rendered.pod["metadata"]["labels"].items()
    deployment, service = rendered.one("Deployment"), rendered.one("Service")
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels
    assert service["spec"]["selector"].items() <= labels
    budget, policy = rendered.one("PodDisruptionBudget"), rendered.one("NetworkPolicy")
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels
    monitor = rendered.one("ServiceMonitor")["spec"]["selector"]["matchLabels"].items()
    assert monitor <= service["metadata"]["labels"].items()


def test_without_a_flag_nothing_of_others_is_needed() -> None:
    assert OF_OTHERS.isdisjoint(m["kind"] for m in render(values_of("minimal")).manifests)


def test_rules_and_dashboards_are_taken_from_files(tmp_path: Path) -> None:
    chart = shutil.copytree(CHART, tmp_path / "chart")
    for folder in ("rules", "dashboards"):
        shutil.rmtree(chart / "files" / folder, ignore_errors=True)
        (chart / "files" / folder).mkdir()
    values = values_of(
        "minimal",
        metrics={"prometheusRule": {"enabled": True, "labels": {"release": "stack"}}},
        dashboards={"enabled": True, "namespace": "monitoring"},
    )
    rendered = render(values, chart)
    assert rendered.of_kind("PrometheusRule") == []
    assert len(rendered.of_kind("ConfigMap")) == 1

    alert = {"alert": "Down", "expr": "up == 0", "annotations": {"summary": "{{ $labels.job }}"}}
    groups = [{"name": name, "rules": [alert]} for name in ("jobs", "operator")]
    for group in groups:
        path = chart / "files" / "rules" / f"{group['name']}.yaml"
        path.write_text(yaml.safe_dump({"groups": [group]}))
    dashboard = '{"title": "{{ all }} jobs",\n "panels": []}\n'
    (chart / "files" / "dashboards" / "jobs.json").write_text(dashboard)
    rendered = render(values, chart)
    rule = rendered.one("PrometheusRule")
    assert rule["spec"]["groups"] == groups
    assert rule["metadata"]["labels"]["release"] == "stack"
    (shown,) = (m for m in rendered.of_kind("ConfigMap") if "dashboard" in m["metadata"]["name"])
    assert shown["data"] == {"jobs.json": dashboard}
    assert shown["metadata"]["namespace"] == "monitoring"
    assert shown["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_the_queue_says_whom_it_preempts() -> None:
    preemption = render(values_of("queued")).one("ClusterQueue")["spec"]["preemption"]
    assert preemption == {"withinClusterQueue": "LowerPriority"}


def test_large_numbers_stay_whole() -> None:
    rendered = render(values_of("queued", runAsUser=1000650000))
    (group,) = rendered.one("ClusterQueue")["spec"]["resourceGroups"]
    (flavor,) = group["flavors"]
    quota = {resource["name"]: resource["nominalQuota"] for resource in flavor["resources"]}
    assert quota == {"nvidia.com/gpu": 16, "cpu": 2000000, "memory": "2Ti"}
    assert sorted(group["coveredResources"]) == sorted(quota)
    assert [c["value"] for c in rendered.of_kind("PriorityClass")] == [1000000, -100]
    assert rendered.pod["spec"]["securityContext"]["runAsUser"] == 1000650000
