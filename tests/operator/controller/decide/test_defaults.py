"""What an administrator sets for all jobs fills what a job leaves open, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dreambooth_api.models.job import DreamBoothJob, resolved
from dreambooth_api.parsing.load import load, parse
from dreambooth_operator.controller.decide.defaults import JobDefaults, with_defaults
from dreambooth_operator.controller.decide.preflight import preflight_children
from dreambooth_operator.manifests.resources import attempt_job
from tests.operator.controller.parts import job_body

ROOT = Path(__file__).parents[4]
VALID = [*sorted((ROOT / "tests/crds/jobs/valid").glob("*.yaml")), *ROOT.glob("examples/*.yaml")]

KEYS = {
    "accessKeyID": "AWS_ACCESS_KEY_ID",
    "secretAccessKey": "AWS_SECRET_ACCESS_KEY",
    "sessionToken": "AWS_SESSION_TOKEN",
}
MINIO = {
    "endpointURL": "https://minio.example.com:9000",
    "region": "eu-west-1",
    "addressingStyle": "path",
    "credentials": {"secretRef": {"name": "s3", "keys": KEYS}},
}
MINE = {"credentials": {"secretRef": {"name": "mine", "keys": KEYS | {"accessKeyID": "id"}}}}
RUNTIME = {
    "imagePullPolicy": "Always",
    "imagePullSecrets": [{"name": "registry"}],
    "queue": "gpus",
    "priorityClassName": "batch",
    "serviceAccountName": "dreambooth",
    "nodeSelector": {"pool": "gpu"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
}
ALL = JobDefaults.model_validate({"storage": MINIO, **RUNTIME})


def job(**spec: Any) -> DreamBoothJob:
    return parse(job_body("team", "mug", **spec))


def test_nothing_is_filled_in_where_nothing_is_set() -> None:
    written = job()
    assert with_defaults(written, JobDefaults()) == (written, [])


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, MINIO),
        ({"addressingStyle": "auto"}, MINIO),  # as the API server stores a job without storage
        ({"addressingStyle": "virtual"}, MINIO | {"addressingStyle": "virtual"}),
        (MINE, MINIO | MINE),
        ({"region": "eu-central-1"}, {"region": "eu-central-1", "addressingStyle": "auto"}),
        (
            {"endpointURL": "http://ceph", "addressingStyle": "path"},
            {"endpointURL": "http://ceph", "addressingStyle": "path"},
        ),
    ],
)
def test_storage_is_never_mixed_with_that_of_another_place(
    own: dict[str, Any], expected: dict[str, Any]
) -> None:
    filled, paths = with_defaults(job(storage=own), ALL)
    assert resolved(filled)["spec"]["storage"] == expected
    assert ("spec.storage" in paths) is ("region" not in own and "endpointURL" not in own)


@pytest.mark.parametrize("name", RUNTIME)
def test_runtime_is_filled_in_field_by_field(name: str) -> None:
    filled, paths = with_defaults(job(), JobDefaults.model_validate({name: RUNTIME[name]}))
    written = job(runtime={"nodes": 2, "gpusPerNode": 0, name: RUNTIME[name]})
    assert filled == written
    assert paths == [f"spec.runtime.{name}"]


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("imagePullSecrets", [{"name": "mine"}]),
        ("queue", "mine"),
        ("priorityClassName", "mine"),
        ("serviceAccountName", "mine"),
        ("nodeSelector", {"zone": "a"}),
        ("tolerations", [{"key": "mine", "operator": "Exists"}]),
    ],
)
def test_what_a_job_says_of_its_runtime_stays(name: str, own: Any) -> None:
    written = job(runtime={name: own})
    filled, paths = with_defaults(written, ALL)
    assert getattr(filled.spec.runtime, _python(name)) == getattr(
        written.spec.runtime, _python(name)
    )
    assert f"spec.runtime.{name}" not in paths


def test_pull_policy_goes_with_the_image() -> None:
    own, _ = with_defaults(job(runtime={"image": "mine:1", "imagePullPolicy": "Never"}), ALL)
    assert own.spec.runtime.image_pull_policy == "Never"
    operators, _ = with_defaults(job(), ALL)
    assert operators.spec.runtime.image_pull_policy == "Always"


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_valid_job_is_valid_with_any_defaults(path: Path) -> None:
    filled, _ = with_defaults(load(path), ALL)
    assert parse(resolved(filled)) == filled.model_copy(update={"status": None})


def test_only_storage_and_runtime_are_touched() -> None:
    """A checkpoint and the cache of class images are known by what is trained, not by these."""
    written = job()
    filled, _ = with_defaults(written, ALL)
    assert filled.spec != written.spec
    untouched = filled.spec.model_copy(
        update={"storage": written.spec.storage, "runtime": written.spec.runtime}
    )
    assert untouched == written.spec
    assert (filled.metadata, filled.status) == (written.metadata, written.status)


def test_pods_and_config_agree() -> None:
    filled, _ = with_defaults(job(), ALL)
    config, preflight = preflight_children(filled, "trainer:1")
    text = config["data"]["job.yaml"]
    assert "endpointURL: https://minio.example.com:9000" in text
    for made in (preflight, attempt_job(filled, 0, "trainer:1")):
        spec = made["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        keys = {each["name"]: each.get("valueFrom", {}) for each in container["env"]}
        assert keys["AWS_ACCESS_KEY_ID"]["secretKeyRef"]["name"] == "s3"
        assert container["imagePullPolicy"] == "Always"
        assert spec["imagePullSecrets"] == [{"name": "registry"}]
        assert spec["serviceAccountName"] == "dreambooth"
        assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    attempt = attempt_job(filled, 0, "trainer:1")
    assert attempt["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert attempt["spec"]["template"]["spec"]["nodeSelector"] == {"pool": "gpu"}


def _python(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
