"""An update may change little, and the CRD's transition rules say the same as `check_update`."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from dreambooth_api import check_update, parse
from dreambooth_api.models.job import Spec
from dreambooth_api.models.runtime import Runtime
from dreambooth_api.models.update import FIXED, SUSPEND_FIRST

Admit = Callable[..., list[str]]
Job = dict[str, Any]

CHANGES: dict[str, Any] = {
    "model": {"source": "hf://owner/other"},
    "subjects": [{"identifier": "xyz", "classNoun": "dog", "images": "s3://bucket/dog"}],
    "output": "s3://bucket/other",
    "prior": {"count": 10},
    "training": {"steps": 10},
    "checkpoints": {"every": 10},
    "samples": {"prompts": ["a photo of sks dog"]},
    "evaluation": {"model": "s3://models/clip"},
    "tracking": {"tensorboard": True},
    "storage": {"region": "eu-central-1"},
}
RUNTIME_CHANGES: dict[str, Any] = {
    "nodes": 2,
    "gpusPerNode": 2,
    "processesPerNode": 2,
    "gpuResource": "amd.com/gpu",
    "gpuMemory": "80Gi",
    "image": "other",
    "imagePullPolicy": "Always",
    "imagePullSecrets": ["pull"],
    "resources": {"requests": {"cpu": "1"}},
    "shmSize": "1Gi",
    "nodeSelector": {"pool": "gpu"},
    "tolerations": [{"operator": "Exists"}],
    "queue": "gpus",
    "priorityClass": "high",
    "serviceAccount": "other",
    "suspend": True,
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
    "queue",
}


def job(spec: Job | None = None, **runtime: Any) -> Job:
    minimal: Job = {
        "model": {"source": "hf://owner/model"},
        "subjects": [{"identifier": "sks", "classNoun": "dog", "images": "s3://bucket/dog"}],
        "output": "s3://bucket/results",
        # On the CPU, so that processesPerNode can be set.
        "runtime": {"gpusPerNode": 0, **runtime},
    }
    return {
        "apiVersion": "dreambooth.dev/v1alpha1",
        "kind": "DreamBoothJob",
        "metadata": {"name": "dog"},
        "spec": minimal | (spec or {}),
    }


def refused(old: Job, new: Job, admit: Admit) -> list[str]:
    """What is refused, by the models, after a check that the CRD blames the same fields."""
    found = check_update(parse(deepcopy(old)), parse(deepcopy(new)))
    assert admit(new, old) == [line.partition(": ")[0] for line in found]
    return found


def test_every_field_is_tried() -> None:
    aliases = {model: {f.alias for f in model.model_fields.values()} for model in (Spec, Runtime)}
    assert CHANGES.keys() == aliases[Spec] - {"runtime"}
    assert RUNTIME_CHANGES.keys() == aliases[Runtime]


def test_same_job_can_be_applied_again(admit: Admit) -> None:
    assert refused(job(), job(), admit) == []


@pytest.mark.parametrize("suspend", [False, True])
@pytest.mark.parametrize("field", CHANGES)
def test_spec_is_fixed(field: str, suspend: bool, admit: Admit) -> None:
    old, new = job(suspend=suspend), job({field: CHANGES[field]}, suspend=suspend)
    assert refused(old, new, admit) == [f"spec.{field}: {FIXED}"]
    assert refused(new, old, admit) == [f"spec.{field}: {FIXED}"]


@pytest.mark.parametrize("field", RUNTIME_CHANGES)
def test_runtime_of_a_running_job_is_fixed(field: str, admit: Admit) -> None:
    message = SUSPEND_FIRST if field in WHILE_SUSPENDED else FIXED
    expected = [] if field in FREE else [f"spec.runtime.{field}: {message}"]
    assert refused(job(), job(**{field: RUNTIME_CHANGES[field]}), admit) == expected


@pytest.mark.parametrize("field", RUNTIME_CHANGES)
def test_place_of_a_suspended_job_can_change(field: str, admit: Admit) -> None:
    old, new = job(suspend=True), job(**{"suspend": True, field: RUNTIME_CHANGES[field]})
    free = field in FREE | WHILE_SUSPENDED
    assert refused(old, new, admit) == ([] if free else [f"spec.runtime.{field}: {FIXED}"])


def test_suspending_and_moving_takes_two_updates(admit: Admit) -> None:
    new = job(suspend=True, nodes=2)
    assert refused(job(), new, admit) == [f"spec.runtime.nodes: {SUSPEND_FIRST}"]


def test_moving_and_resuming_takes_one(admit: Admit) -> None:
    assert refused(job(suspend=True), job(suspend=False, nodes=2), admit) == []


def test_default_written_out_is_no_change(admit: Admit) -> None:
    assert refused(job(), job({"prior": {"count": 200}}, nodes=1), admit) == []
