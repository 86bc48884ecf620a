"""An update may change little: the CRD's transition rules."""

from collections.abc import Callable
from typing import Any

import pytest

from dreambooth_api.models.pods.runtime import Runtime
from dreambooth_api.models.spec import Spec
from dreambooth_api.models.update import FIXED, SUSPEND_FIRST, transitions

Admit = Callable[..., list[str]]
Job = dict[str, Any]

CHANGES: dict[str, Any] = {
    "model": {"source": "hf://owner/other"},
    "subjects": [{"identifier": "xyz", "classNoun": "dog", "images": "s3://bucket/dog"}],
    "output": "s3://bucket/other",
    "prior": {"count": 10},
    "captioning": {"photoCheck": True},
    "training": {"steps": 10},
    "checkpoints": {"every": 10},
    "resumeFrom": {"job": "other"},
    "samples": {"prompts": ["a photo of sks dog"]},
    "evaluation": {"preset": "modern"},
    "export": {"pushToHub": {"repository": "me/mug", "secretRef": {"name": "hub"}}},
    "tracking": {"tensorboard": True},
    "storage": {"region": "eu-central-1"},
    "suspend": True,
}
RUNTIME_CHANGES: dict[str, Any] = {
    "nodes": 2,
    "gpusPerNode": 2,
    "processesPerNode": 2,
    "strategy": "fsdp",
    "offload": {"fraction": 0.5},
    "gpuResource": "amd.com/gpu",
    "gpuMemory": "80Gi",
    "image": "other",
    "imagePullPolicy": "Always",
    "imagePullSecrets": [{"name": "pull"}],
    "resources": {"requests": {"cpu": "1"}},
    "preflight": {"resources": {"limits": {"memory": "8Gi"}}},
    "shmSize": "1Gi",
    "nodeSelector": {"pool": "gpu"},
    "tolerations": [{"operator": "Exists"}],
    "queue": "gpus",
    "ports": {"metrics": 9500},
    "priorityClassName": "high",
    "serviceAccountName": "other",
    "restart": {"maxFailures": 1},
    "startDeadlineSeconds": 60,
    "activeDeadlineSeconds": 60,
    "stallTimeoutSeconds": 60,
    "terminationGracePeriodSeconds": 60,
    "terminatingTimeoutSeconds": 900,
    "ttlSecondsAfterFinished": 60,
    "podOverrides": {"metadata": {"labels": {"team": "a"}}},
}
FREE = {"suspend", "ttlSecondsAfterFinished"}
WHILE_SUSPENDED = {
    *("nodes", "gpusPerNode", "processesPerNode", "resources", "nodeSelector", "tolerations"),
    *("queue", "ports", "preflight", "image", "imagePullPolicy", "imagePullSecrets"),
}


def job(spec: Job | None = None, *, suspend: bool = False, **runtime: Any) -> Job:
    minimal: Job = {
        "model": {"source": "hf://owner/model"},
        "subjects": [{"identifier": "sks", "classNoun": "dog", "images": "s3://bucket/dog"}],
        "output": "s3://bucket/results",
        # On the CPU, so that processesPerNode can be set.
        "runtime": {"gpusPerNode": 0, **runtime},
        "suspend": suspend,
    }
    return {
        "apiVersion": "dreambooth.dev/v1alpha1",
        "kind": "DreamBoothJob",
        "metadata": {"name": "dog"},
        "spec": minimal | (spec or {}),
    }


def test_every_field_is_tried() -> None:
    aliases = {model: {f.alias for f in model.model_fields.values()} for model in (Spec, Runtime)}
    assert CHANGES.keys() == aliases[Spec] - {"runtime"}
    assert RUNTIME_CHANGES.keys() == aliases[Runtime]


def test_same_job_can_be_applied_again(admit: Admit) -> None:
    assert admit(job(), job()) == []


@pytest.mark.parametrize("suspend", [False, True])
@pytest.mark.parametrize("field", sorted(CHANGES.keys() - FREE))
def test_spec_is_fixed(field: str, suspend: bool, admit: Admit) -> None:
    old, new = job(suspend=suspend), job({field: CHANGES[field]}, suspend=suspend)
    assert admit(new, old) == [f"spec.{field}"]
    assert admit(old, new) == [f"spec.{field}"]


@pytest.mark.parametrize("field", RUNTIME_CHANGES)
def test_runtime_of_a_running_job_is_fixed(field: str, admit: Admit) -> None:
    expected = [] if field in FREE else [f"spec.runtime.{field}"]
    assert admit(job(**{field: RUNTIME_CHANGES[field]}), job()) == expected


@pytest.mark.parametrize("field", RUNTIME_CHANGES)
def test_place_of_a_suspended_job_can_change(field: str, admit: Admit) -> None:
    old, new = job(suspend=True), job(suspend=True, **{field: RUNTIME_CHANGES[field]})
    free = field in FREE | WHILE_SUSPENDED
    assert admit(new, old) == ([] if free else [f"spec.runtime.{field}"])


def test_subjects_keep_their_order(admit: Admit) -> None:
    two = [{"identifier": i, "classNoun": "dog", "images": "s3://bucket/dog"} for i in ("x", "y")]
    assert admit(job({"subjects": two[::-1]}), job({"subjects": two})) == ["spec.subjects"]


def test_merged_adapters_keep_their_order(admit: Admit) -> None:
    two = [{"source": f"s3://bucket/{name}"} for name in ("a", "b")]
    old, new = (
        job({"model": {"source": "hf://owner/model", "mergedAdapters": adapters}})
        for adapters in (two, two[::-1])
    )
    assert admit(old, old) == []
    assert admit(new, old) == ["spec.model"]


VARIABLES = [{"name": "HOST", "value": "a"}, {"name": "URL", "value": "http://$(HOST)"}]
CONTAINERS = [{"name": "first", "image": "a"}, {"name": "second", "image": "b"}]


def overrides(env: list[Job], init: list[Job]) -> Job:
    trainer = {"name": "trainer", "env": env}
    return {"spec": {"containers": [trainer], "initContainers": init}}


@pytest.mark.parametrize(
    ("changed", "refused"),
    [
        (overrides(VARIABLES, CONTAINERS), False),
        (overrides(VARIABLES[::-1], CONTAINERS), True),
        (overrides(VARIABLES, CONTAINERS[::-1]), True),
        ({"spec": {"containers": [{"name": "trainer"}], "initContainers": CONTAINERS}}, True),
    ],
    ids=["the same", "variables", "init containers", "no variables"],
)
def test_overrides_keep_their_order(changed: Job, refused: bool, admit: Admit) -> None:
    old = job(podOverrides=overrides(VARIABLES, CONTAINERS))
    expected = ["spec.runtime.podOverrides"] if refused else []
    assert admit(job(podOverrides=changed), old) == expected


def test_messages_say_whether_suspending_helps() -> None:
    for transition in transitions():
        name = transition.path.removeprefix("runtime.")
        expected = SUSPEND_FIRST if name in WHILE_SUSPENDED else FIXED
        assert transition.as_validation()["message"] == expected


def test_a_job_can_be_suspended_and_resumed_at_any_time(admit: Admit) -> None:
    assert admit(job(suspend=True), job()) == []
    assert admit(job(), job(suspend=True)) == []


def test_suspending_and_moving_takes_two_updates(admit: Admit) -> None:
    assert admit(job(suspend=True, nodes=2), job()) == ["spec.runtime.nodes"]


def test_moving_and_resuming_takes_one(admit: Admit) -> None:
    assert admit(job(suspend=False, nodes=2), job(suspend=True)) == []


def test_default_written_out_is_no_change(admit: Admit) -> None:
    assert admit(job({"prior": {"count": 200}}, nodes=1), job()) == []
