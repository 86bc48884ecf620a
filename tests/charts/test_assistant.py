"""The chart's vision-language model."""

from __future__ import annotations

import copy
from typing import Any

import helm_python as helm
import pytest

from tests.charts.pod_security import violations
from tests.charts.rendering import Values, render, values_of

ASSISTANT = "assistant"


def changed(**assistant: Any) -> Values:
    values = copy.deepcopy(values_of(ASSISTANT))
    values["assistant"] |= assistant
    return values


def pod_of(values: Values) -> dict[str, Any]:
    pod: dict[str, Any] = render(values).one("Deployment", ASSISTANT)["spec"]["template"]
    return pod


def test_none_runs_unless_it_is_enabled() -> None:
    names = {m["metadata"]["name"] for m in render(values_of("defaults")).manifests}
    assert not any(name.endswith("-assistant") for name in names)


def test_by_default_it_runs_what_loads_a_model_that_reads_images() -> None:
    values = values_of("defaults")
    values["assistant"] = {"enabled": True}
    [container] = pod_of(values)["spec"]["containers"]
    assert container["image"].startswith("vllm/")


@pytest.mark.parametrize("image", ["vllm/vllm-openai:v0.12.0", ""])
def test_its_pods_hold_the_restricted_standard(image: str) -> None:
    pod = pod_of(changed(image=image, keySecret=""))
    assert violations(pod["spec"]) == []
    container = pod["spec"]["containers"][0]
    assert ("transformers" in container["args"]) == (not image)
    assert "mistralai/Ministral-3-8B-Instruct-2512" in container["args"]


def test_the_key_is_a_reference_and_needs_vllm() -> None:
    env = {each["name"]: each for each in pod_of(changed())["spec"]["containers"][0]["env"]}
    reference = {"name": "assistant", "key": "OPENAI_API_KEY"}
    assert env["VLLM_API_KEY"]["valueFrom"]["secretKeyRef"] == reference
    with pytest.raises(helm.HelmError, match=r"assistant\.keySecret: transformers serve takes no"):
        render(changed(image=""))


def test_jobs_may_reach_it() -> None:
    rendered = render(values_of(ASSISTANT))
    policies = [m for m in rendered.manifests if m["kind"] == "NetworkPolicy"]
    trainers = next(m for m in policies if m["metadata"]["name"].endswith("-trainers"))
    [peer] = next(
        rule["to"] for rule in trainers["spec"]["egress"] if {"port": 8000, "protocol": "TCP"} in
        rule.get("ports", [])
    )  # fmt: skip
    labels = rendered.one("Deployment", ASSISTANT)["spec"]["template"]["metadata"]["labels"]
    assert peer["podSelector"]["matchLabels"].items() <= labels.items()
