"""What an administrator sets for all jobs fills what a job leaves open, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

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
    "anonymousBuckets": ["models"],
}
MINE = {"credentials": {"secretRef": {"name": "mine", "keys": KEYS | {"accessKeyID": "id"}}}}
OWN = {"addressingStyle": "auto", "anonymousBuckets": []}
RUNTIME = {
    "imagePullPolicy": "Always",
    "imagePullSecrets": [{"name": "registry"}],
    "queue": "gpus",
    "priorityClassName": "batch",
    "serviceAccountName": "dreambooth",
    "nodeSelector": {"pool": "gpu"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    "ports": {"metrics": 9500},
}
OVERRIDES = {
    "metadata": {"labels": {"team": "art"}},
    "spec": {
        "volumes": [{"name": "ca", "configMap": {"name": "company-ca"}}],
        "containers": [
            {
                "name": "trainer",
                "env": [{"name": "SSL_CERT_FILE", "value": "/etc/company/ca.pem"}],
                "volumeMounts": [{"name": "ca", "mountPath": "/etc/company"}],
            }
        ],
    },
}
"""Certificates of a company, for all jobs."""
PODS = {
    "resources": {"requests": {"cpu": "8"}, "limits": {"memory": "64Gi"}},
    "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
    "podOverrides": OVERRIDES,
}
ALL = JobDefaults.model_validate({"storage": MINIO, **RUNTIME, **PODS})


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
        ({"anonymousBuckets": ["photos"]}, MINIO | {"anonymousBuckets": ["photos"]}),
        ({"region": "eu-central-1"}, OWN | {"region": "eu-central-1"}),
        (
            {"endpointURL": "http://ceph", "addressingStyle": "path"},
            OWN | {"endpointURL": "http://ceph", "addressingStyle": "path"},
        ),
    ],
)
def test_storage_is_never_mixed_with_that_of_another_place(
    own: dict[str, Any], expected: dict[str, Any]
) -> None:
    filled, paths = with_defaults(job(storage=own), ALL)
    assert resolved(filled)["spec"]["storage"] == expected
    assert ("spec.storage" in paths) is ("region" not in own and "endpointURL" not in own)


def test_public_bucket_of_the_defaults_is_not_public_for_a_job_that_writes_there() -> None:
    defaults = JobDefaults.model_validate(
        {"storage": {"anonymousBuckets": ["models", "results", "prior"]}}
    )
    filled, _ = with_defaults(job(prior={"cache": "s3://prior/cache"}), defaults)
    assert filled.spec.storage.anonymous_buckets == ["models"]
    assert parse(resolved(filled)) == filled


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
        ("ports", {"rendezvous": 29600}),
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


def environment(container: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each.get("value") for each in container["env"]}


def test_every_pod_has_the_proxy_and_the_certificates() -> None:
    filled, paths = with_defaults(job(runtime={"gpusPerNode": 1}), ALL)
    assert {"spec.runtime.resources", "spec.runtime.podOverrides"} <= set(paths)
    _, preflight = preflight_children(filled, "trainer:1")
    for made in (preflight, attempt_job(filled, 0, "trainer:1")):
        template = made["spec"]["template"]
        (container,) = template["spec"]["containers"]
        assert environment(container)["HTTPS_PROXY"] == "http://proxy:3128"
        assert environment(container)["SSL_CERT_FILE"] == "/etc/company/ca.pem"
        assert {"name": "ca", "mountPath": "/etc/company"} in container["volumeMounts"]
        assert template["spec"]["volumes"][-1]["configMap"] == {"name": "company-ca"}
        assert template["metadata"]["labels"]["team"] == "art"
    (container,) = attempt_job(filled, 0, "trainer:1")["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == {
        "requests": {"cpu": "8", "nvidia.com/gpu": "1"},
        "limits": {"memory": "64Gi", "nvidia.com/gpu": "1"},
    }


def test_overrides_of_a_job_win_and_leave_the_rest() -> None:
    own = {
        "name": "trainer",
        "env": [{"name": "HTTPS_PROXY", "value": ""}, {"name": "NCCL_DEBUG", "value": "INFO"}],
    }
    filled, _ = with_defaults(job(runtime={"podOverrides": {"spec": {"containers": [own]}}}), ALL)
    (container,) = attempt_job(filled, 0, "trainer:1")["spec"]["template"]["spec"]["containers"]
    expected = {"HTTPS_PROXY": "", "SSL_CERT_FILE": "/etc/company/ca.pem", "NCCL_DEBUG": "INFO"}
    assert expected.items() <= environment(container).items()


def test_resources_of_a_job_are_not_mixed_with_the_defaults() -> None:
    filled, _ = with_defaults(job(runtime={"resources": {"requests": {"memory": "80Gi"}}}), ALL)
    assert filled.spec.runtime.resources.limits == {}


def test_each_field_of_the_preflight_has_a_default_of_its_own() -> None:
    defaults = JobDefaults.model_validate({"preflight": {"resources": {"limits": {"cpu": "1"}}}})
    filled, paths = with_defaults(job(), defaults)
    assert paths == ["spec.runtime.preflight"]
    assert filled.spec.runtime.preflight == defaults.preflight
    own = job(runtime={"preflight": {"resources": {}}})
    assert with_defaults(own, defaults) == (own, [])


def test_default_resources_add_no_gpus() -> None:
    gpus = {"nvidia.com/gpu": "4", "cpu": "8"}
    defaults = JobDefaults.model_validate({"resources": {"requests": gpus, "limits": gpus}})
    filled, _ = with_defaults(job(runtime={"gpusPerNode": 0}), defaults)
    assert filled.spec.runtime.resources.requests == {"cpu": "8"}
    assert parse(resolved(filled)).spec == filled.spec


def test_trainer_reads_a_job_whose_variables_exceed_the_bound_with_the_defaults() -> None:
    many = [{"name": f"OWN_{number}", "value": "1"} for number in range(64)]
    overrides = {"spec": {"containers": [{"name": "trainer", "env": many}]}}
    filled, _ = with_defaults(job(runtime={"podOverrides": overrides}), ALL)
    config, _ = preflight_children(filled, "trainer:1")
    parse(yaml.safe_load(config["data"]["job.yaml"]))


def _python(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
