"""The chart's server of results."""

from __future__ import annotations

import copy
from typing import Any

import helm_python as helm
import pytest

from dreambooth_trainer.serving.metrics import ServingMetrics
from dreambooth_trainer.serving.settings import ServingSettings
from tests.charts.pod_security import violations
from tests.charts.rendering import Values, render, values_of

SERVING = "serving"
PUBLIC = "serving-public"


def changed(**serving: Any) -> Values:
    values = copy.deepcopy(values_of(SERVING))
    values["serving"] |= serving
    return values


def test_nothing_is_served_unless_it_is_enabled() -> None:
    kinds = {m["metadata"]["name"] for m in render(values_of("defaults")).manifests}
    assert not any(name.endswith("-serving") for name in kinds)


def test_the_server_reads_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DREAMBOOTH_SERVING_TOKENS", "from the Secret")
    text = render(values_of(SERVING)).one("ConfigMap", SERVING)["data"]["settings.json"]
    settings = ServingSettings.model_validate_json(text)
    assert (settings.root, settings.queued_images) == ("s3://bucket/results", 64)
    assert settings.storage.endpoint_url == "https://minio.example.com:9000"
    assert settings.images_per_hour == 100
    unlimited = render(changed(settings={})).one("ConfigMap", SERVING)["data"]["settings.json"]
    assert ServingSettings.model_validate_json(unlimited).images_per_hour is None
    insecure = render(changed(tokensSecret="", insecure=True, settings={})).one(
        "ConfigMap", SERVING
    )
    monkeypatch.delenv("DREAMBOOTH_SERVING_TOKENS")
    assert ServingSettings.model_validate_json(insecure["data"]["settings.json"]).insecure


def test_its_pods_are_its_own_and_hold_the_restricted_standard() -> None:
    rendered = render(values_of(SERVING))
    deployment = rendered.one("Deployment", SERVING)
    pod = deployment["spec"]["template"]
    assert violations(pod["spec"]) == []
    assert pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"]
    for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
        spec = rendered.one(kind, SERVING)["spec"]
        selector = spec["podSelector"] if kind == "NetworkPolicy" else spec["selector"]
        labels = selector.get("matchLabels", selector)
        assert labels.items() <= pod["metadata"]["labels"].items()
    # The operator's Service and Deployment must not select them, and the other way around.
    operator = rendered.one("Service")["spec"]["selector"]
    assert not operator.items() <= pod["metadata"]["labels"].items()
    assert not labels.items() <= rendered.pod["metadata"]["labels"].items()
    assert pod["spec"]["terminationGracePeriodSeconds"] > 60


def test_a_gpu_is_a_limit_and_can_be_left_out() -> None:
    def limits(values: Values) -> Any:
        pod = render(values).one("Deployment", SERVING)["spec"]["template"]["spec"]
        return pod["containers"][0]["resources"]["limits"]

    assert limits(values_of(SERVING)) == {"nvidia.com/gpu": 1, "memory": "32Gi"}
    assert limits(changed(gpus=0)) == {"memory": "32Gi"}
    assert limits(changed(gpuResource="amd.com/gpu")) == {"amd.com/gpu": 1, "memory": "32Gi"}


def test_secrets_are_references() -> None:
    pod = render(values_of(SERVING)).one("Deployment", SERVING)["spec"]["template"]["spec"]
    env = {each["name"]: each for each in pod["containers"][0]["env"]}
    tokens = env["DREAMBOOTH_SERVING_TOKENS"]["valueFrom"]["secretKeyRef"]
    assert tokens == {"name": "tokens", "key": "tokens"}
    key = env["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"]
    assert key == {"name": "s3", "key": "AWS_SECRET_ACCESS_KEY"}
    without = render(changed(credentialsSecret="")).one("Deployment", SERVING)
    assert "AWS_SECRET" not in str(without)


def test_pods_follow_the_images_that_wait() -> None:
    rendered = render(values_of(PUBLIC))
    scaler = rendered.one("HorizontalPodAutoscaler", SERVING)["spec"]
    deployment = rendered.one("Deployment", SERVING)
    assert scaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    # Else every upgrade would set the number of pods back.
    assert "replicas" not in deployment["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 6)
    (metric,) = (each["pods"] for each in scaler["metrics"])
    exposed = {each.name: each.kind for each in ServingMetrics().definitions}
    assert exposed[metric["metric"]["name"]] == "gauge"
    assert metric["target"] == {"type": "AverageValue", "averageValue": "8"}
    assert render(values_of(SERVING)).of_kind("HorizontalPodAutoscaler") == []


def test_it_is_reached_from_outside_and_scraped_by_its_service() -> None:
    rendered = render(values_of(PUBLIC))
    service = rendered.one("Service", SERVING)
    name, (port,) = service["metadata"]["name"], service["spec"]["ports"]
    ingress = rendered.one("Ingress", SERVING)["spec"]
    (rule,) = ingress["rules"]
    (path,) = rule["http"]["paths"]
    assert path["backend"]["service"] == {"name": name, "port": {"name": port["name"]}}
    assert ingress["tls"] == [{"hosts": [rule["host"]], "secretName": "images-tls"}]
    route = rendered.one("HTTPRoute", SERVING)["spec"]
    (backend,) = route["rules"][0]["backendRefs"]
    assert backend == {"name": name, "port": port["port"]}
    monitor = rendered.one("ServiceMonitor", SERVING)
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    labels = service["metadata"]["labels"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert monitor["spec"]["endpoints"][0]["port"] == port["name"]
    # The operator's own monitor must not scrape it a second time.
    operator = rendered.one("ServiceMonitor")["spec"]["selector"]["matchLabels"]
    assert not operator.items() <= labels.items()
    private = render(values_of(SERVING))
    for kind in ("Ingress", "HTTPRoute", "ServiceMonitor"):
        assert private.of_kind(kind) == []


@pytest.mark.parametrize(
    ("serving", "message"),
    [
        ({"ingress": {"enabled": True}}, "serving.ingress.host: required"),
        ({"httpRoute": {"enabled": True}}, "serving.httpRoute.parentRefs: required"),
        (
            {"autoscaling": {"enabled": True, "minReplicas": 5}},
            "serving.autoscaling.minReplicas: must not be above maxReplicas",
        ),
        ({"autoscaling": {"queuedImages": 0}}, "queuedImages"),
        ({"httpRoute": {"parentRefs": [{"namespace": "gateways"}]}}, "name"),
    ],
)
def test_a_way_in_that_leads_nowhere_is_refused(serving: dict[str, Any], message: str) -> None:
    with pytest.raises(helm.HelmError, match=message):
        render(changed(**serving))


@pytest.mark.parametrize(
    ("serving", "message"),
    [
        ({"root": ""}, "serving.root: required"),
        ({"tokensSecret": ""}, "serving.tokensSecret: required"),
        ({"tokensSecret": "", "insecure": True}, "imagesPerHour: is counted by token; set"),
        ({"root": "bucket/results"}, "root"),
        ({"gpus": 2}, "gpus"),
        ({"settings": {"queue": 1}}, "queue"),
    ],
)
def test_what_cannot_work_is_refused(serving: dict[str, Any], message: str) -> None:
    with pytest.raises(helm.HelmError, match=message):
        render(changed(**serving))
