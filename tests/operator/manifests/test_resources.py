"""A job becomes the right Kubernetes objects, and they are valid on every supported version."""

import os
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from dreambooth_api.contract.version import VERSION
from dreambooth_api.models.job import DreamBoothJob
from dreambooth_operator.manifests.content import HASH_ANNOTATION
from dreambooth_operator.manifests.names import attempt_name
from dreambooth_operator.manifests.pods import PREFLIGHT_RESOURCES
from dreambooth_operator.manifests.resources import (
    attempt_job,
    attempt_objects,
    config_map,
    preflight_job,
)
from dreambooth_operator.manifests.serialize import to_yaml

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[2] / "examples"
GOLDEN = HERE / "golden"
JOBS = sorted((HERE / "jobs").glob("*.yaml"))
ALL_JOBS = [*JOBS, *sorted(EXAMPLES.glob("*.yaml"))]
IMAGE = "trainer:test"


def job_from(path: Path, training: Any = None, **runtime: Any) -> DreamBoothJob:
    document = yaml.safe_load(path.read_text())
    document["spec"].setdefault("runtime", {}).update(runtime)
    document["spec"]["training"] = document["spec"].get("training", {}) | (training or {})
    return DreamBoothJob.model_validate(document)


def quickstart(training: Any = None, **runtime: Any) -> DreamBoothJob:
    return job_from(EXAMPLES / "quickstart.yaml", training, **runtime)


def rendered(job: DreamBoothJob) -> list[dict[str, Any]]:
    return [*attempt_objects(job, 0, IMAGE), preflight_job(job, IMAGE)]


def trainer_of(manifest: dict[str, Any]) -> dict[str, Any]:
    container: dict[str, Any] = manifest["spec"]["template"]["spec"]["containers"][0]
    return container


def environment(manifest: dict[str, Any]) -> dict[str, Any]:
    return {e["name"]: e.get("value", e.get("valueFrom")) for e in trainer_of(manifest)["env"]}


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_objects_are_as_recorded(path: Path) -> None:
    text = to_yaml(rendered(job_from(path)))
    golden = GOLDEN / path.name
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()
    assert list(yaml.safe_load_all(text)) == rendered(job_from(path))


@pytest.mark.parametrize("version", ["1.33", "1.37"])
@pytest.mark.parametrize("path", ALL_JOBS, ids=lambda path: path.stem)
def test_objects_are_valid_in_the_published_schemas(path: Path, version: str) -> None:
    for manifest in rendered(job_from(path)):
        assert kubernetes_validate.validate(manifest, version, strict=True) == version


def test_every_golden_file_has_a_job() -> None:
    assert {p.name for p in GOLDEN.glob("*.yaml")} == {p.name for p in JOBS}


def test_config_is_the_complete_job_without_what_changes_while_it_runs() -> None:
    job = job_from(HERE / "jobs" / "everything.yaml")
    config = yaml.safe_load(config_map(job)["data"]["job.yaml"])
    assert config["metadata"] == {
        "name": "everything", "namespace": "team-a", "uid": job.metadata.uid,
    }  # fmt: skip
    assert config["spec"]["training"]["steps"] == 800
    assert "suspend" not in config["spec"]
    assert "ttlSecondsAfterFinished" not in config["spec"]["runtime"]
    assert "preflight" not in config["spec"]["runtime"]
    read_back = DreamBoothJob.model_validate(config)
    assert read_back.spec.training == job.spec.training
    assert config_map(read_back)["data"] == config_map(job)["data"]


def test_later_attempts_rendezvous_under_their_own_name() -> None:
    first, second = (environment(attempt_job(quickstart(), n, IMAGE)) for n in (0, 7))
    assert first["MASTER_ADDR"] == first["PET_MASTER_ADDR"] == "quickstart-0-0.quickstart-ranks"
    assert second["MASTER_ADDR"] == "quickstart-7-0.quickstart-ranks"
    assert second["DREAMBOOTH_ATTEMPT"] == "7"


def test_longest_name_still_fits_a_dns_label() -> None:
    longest = quickstart(training={"globalBatch": 512}, nodes=512)
    longest.metadata.name = "a" * 40
    objects = rendered(longest)
    assert all(len(manifest["metadata"]["name"]) <= 63 for manifest in objects)
    assert len(f"{attempt_job(longest, 9999, IMAGE)['metadata']['name']}-511-abcde") <= 63


def test_processes_take_the_place_of_gpus_on_the_cpu() -> None:
    container = trainer_of(attempt_job(quickstart(processesPerNode=2), 0, IMAGE))
    assert container["resources"] == {}
    assert [port["containerPort"] for port in container["ports"]] == [9400, 9401]
    assert {"name": "PET_NPROC_PER_NODE", "value": "2"} in container["env"]


def test_secrets_are_only_referred_to() -> None:
    env = environment(attempt_job(job_from(HERE / "jobs" / "everything.yaml"), 0, IMAGE))
    assert env["AWS_SECRET_ACCESS_KEY"]["secretKeyRef"]["name"] == "s3-credentials"
    assert env["AWS_SESSION_TOKEN"]["secretKeyRef"]["optional"] is True
    assert env["WANDB_API_KEY"]["secretKeyRef"]["name"] == "wandb-key"
    assert env["DREAMBOOTH_HUB_TOKEN"]["secretKeyRef"] == {"name": "hub", "key": "HF_TOKEN"}
    checking = environment(preflight_job(job_from(HERE / "jobs" / "everything.yaml"), IMAGE))
    assert "AWS_SECRET_ACCESS_KEY" in checking
    assert "DREAMBOOTH_HUB_TOKEN" not in checking
    assert env["OPENAI_API_KEY"]["secretKeyRef"] == {"name": "assistant", "key": "token"}
    assert "OPENAI_API_KEY" in checking  # which asks whether the endpoint takes it
    assert env["MLFLOW_TRACKING_TOKEN"]["secretKeyRef"]["name"] == "mlflow"
    assert env["MLFLOW_TRACKING_PASSWORD"]["secretKeyRef"]["optional"] is True


def test_without_a_uid_nothing_is_owned() -> None:
    assert all("ownerReferences" not in m["metadata"] for m in rendered(quickstart()))


def test_owner_does_not_block_deletion() -> None:
    for manifest in rendered(job_from(HERE / "jobs" / "everything.yaml")):
        (owner,) = manifest["metadata"]["ownerReferences"]
        assert owner["controller"] is True
        assert "blockOwnerDeletion" not in owner


def test_overrides_never_change_the_job_itself() -> None:
    job = job_from(HERE / "jobs" / "everything.yaml")
    before = job.model_dump()
    rendered(job)
    assert job.model_dump() == before


def test_overridden_volume_replaces_the_operators() -> None:
    job = attempt_job(job_from(HERE / "jobs" / "everything.yaml"), 0, IMAGE)
    volumes = {v["name"]: v for v in job["spec"]["template"]["spec"]["volumes"]}
    assert "emptyDir" not in volumes["cache"]
    assert volumes["shm"]["emptyDir"]["medium"] == "Memory"


def test_models_stay_in_memory_unless_the_job_brings_a_cache() -> None:
    of_pods = attempt_job(quickstart(), 0, IMAGE)
    of_cache = attempt_job(job_from(HERE / "jobs" / "everything.yaml"), 0, IMAGE)
    volumes, kept = (
        {v["name"]: v for v in job["spec"]["template"]["spec"]["volumes"]}
        for job in (of_pods, of_cache)
    )
    name = "models-in-memory"
    [mount] = [m for m in trainer_of(of_pods)["volumeMounts"] if m["name"] == name]
    assert volumes[name] == {"name": name, "emptyDir": {"medium": "Memory"}}
    assert environment(of_pods)["DREAMBOOTH_MODELS_DIR"] == mount["mountPath"]
    assert name not in kept
    assert "DREAMBOOTH_MODELS_DIR" not in environment(of_cache)


def test_a_volume_with_models_of_the_job_replaces_none() -> None:
    volume = {"name": "models", "persistentVolumeClaim": {"claimName": "models"}}
    job = attempt_job(quickstart(podOverrides={"spec": {"volumes": [volume]}}), 0, IMAGE)
    plain = attempt_job(quickstart(), 0, IMAGE)
    before, after = (j["spec"]["template"]["spec"]["volumes"] for j in (plain, job))
    assert after == [*before, volume]


def test_both_templates_say_which_contract_the_operator_speaks() -> None:
    for job in (attempt_job(quickstart(), 0, IMAGE), preflight_job(quickstart(), IMAGE)):
        assert environment(job)["DREAMBOOTH_CONTRACT_VERSION"] == str(VERSION)


FOREIGN = {
    "kubectl.kubernetes.io/last-applied-configuration": "{}",
    "argocd.argoproj.io/tracking-id": "a",
    "kueue.x-k8s.io/queue-name": "other",
    "meta.helm.sh/release-name": "a",
    "helm.sh/hook": "test",
    "applyset.kubernetes.io/part-of": "a",
    "kapp.k14s.io/app": "a",
    "objectset.rio.cattle.io/hash": "a",
    "kustomize.toolkit.fluxcd.io/name": "a",
    "kopf.zalando.org/last-handled-configuration": "{}",
    "batch.kubernetes.io/job-name": "a",
    "dreambooth.dev/attempt": "7",
    "app.kubernetes.io/instance": "a",
    "app.kubernetes.io/managed-by": "Helm",
    "job-name": "a",
}


def test_children_carry_the_labels_and_annotations_of_the_job() -> None:
    job = quickstart()
    own = {"team": "vision", "sidecar.istio.io/inject": "false"}
    meta = job.metadata.model_copy(update={"labels": own | FOREIGN, "annotations": own | FOREIGN})
    children = rendered(job.model_copy(update={"metadata": meta}))
    plain = rendered(job)
    assert [child["kind"] for child in children] == ["Service", "ConfigMap", "Job", "Job"]
    for child, without in zip(children, plain, strict=True):
        parts = [(child["metadata"], without["metadata"])]
        if child["kind"] == "Job":
            templates = child["spec"]["template"], without["spec"]["template"]
            parts.append((templates[0]["metadata"], templates[1]["metadata"]))
        for metadata, before in parts:
            assert metadata["labels"] == before["labels"] | own
            assert metadata["annotations"] == before.get("annotations", {}) | own


def test_attempts_have_the_workload_priority_of_the_job() -> None:
    job = quickstart()
    label = {"kueue.x-k8s.io/priority-class": "urgent"}
    meta = job.metadata.model_copy(update={"labels": label})
    for child in rendered(job.model_copy(update={"metadata": meta})):
        is_attempt = child["metadata"]["name"] == attempt_name(job, 0)
        assert ("urgent" in child["metadata"]["labels"].values()) is is_attempt


def test_a_job_without_annotations_gives_none_to_its_children() -> None:
    for child in rendered(quickstart()):
        assert child["metadata"].get("annotations", {}).keys() <= {HASH_ANNOTATION}


def test_annotations_that_do_not_fit_on_a_child_are_left_out() -> None:
    """A job may have 256 KiB of annotations, and so may a pod, to which overrides add theirs."""
    added = {f"example.com/added-{i}": "ä" * 2000 for i in range(30)}
    own = {"team": "vision", "example.com/small": "a" * 1000, "example.com/large": "a" * 150_000}
    job = quickstart(podOverrides={"metadata": {"annotations": added}})
    meta = job.metadata.model_copy(update={"annotations": own})
    for child in rendered(job.model_copy(update={"metadata": meta})):
        assert own.items() <= child["metadata"]["annotations"].items()
        if child["kind"] == "Job":
            annotations = child["spec"]["template"]["metadata"]["annotations"]
            assert sum(len((k + v).encode()) for k, v in annotations.items()) <= 240 * 1024
            assert annotations.items() >= added.items()
            kept = annotations.keys() & own.keys()
            assert kept == {"team", "example.com/small"}


def templates(job: DreamBoothJob) -> list[dict[str, Any]]:
    return [child["spec"]["template"] for child in rendered(job) if child["kind"] == "Job"]


def test_no_mesh_adds_a_sidecar_unless_the_job_asks_for_it() -> None:
    for template in templates(quickstart()):
        assert template["metadata"]["labels"]["sidecar.istio.io/inject"] == "false"
        assert template["metadata"]["annotations"] == {"linkerd.io/inject": "disabled"}


@pytest.mark.parametrize("field", ["labels", "annotations"])
@pytest.mark.parametrize("overridden", [False, True])
def test_a_job_may_ask_for_a_sidecar(field: str, overridden: bool) -> None:
    asked = {"sidecar.istio.io/inject": "true", "linkerd.io/inject": "enabled"}
    if overridden:
        job = quickstart(podOverrides={"metadata": {field: asked}})
    else:
        job = quickstart()
        meta = job.metadata.model_copy(update={field: asked})
        job = job.model_copy(update={"metadata": meta})
    for template in templates(job):
        meta = template["metadata"]
        chosen = {**meta["labels"], **meta.get("annotations", {})}
        assert {key: chosen[key] for key in asked} == asked
        other = "annotations" if field == "labels" else "labels"
        assert not asked.keys() & meta.get(other, {}).keys()


@pytest.mark.parametrize(
    ("network", "policy"),
    [
        ({}, None),
        ({"hostNetwork": False}, None),
        ({"hostNetwork": True}, "ClusterFirstWithHostNet"),
        ({"hostNetwork": True, "dnsPolicy": "Default"}, "Default"),
    ],
)
def test_pods_on_the_nodes_network_use_the_clusters_dns(
    network: dict[str, Any], policy: str | None
) -> None:
    for template in templates(quickstart(podOverrides={"spec": network})):
        assert template["spec"].get("dnsPolicy") == policy


def test_claims_and_resources_are_for_the_pods_that_train() -> None:
    job = job_from(HERE / "jobs" / "everything.yaml")
    claims = [{"name": "nic"}]
    trainer = attempt_job(job, 0, IMAGE)["spec"]["template"]["spec"]
    assert trainer["resourceClaims"] == [{"name": "nic", "resourceClaimTemplateName": "rdma-nic"}]
    assert trainer["initContainers"][0]["resources"]["claims"] == claims
    resources = trainer["containers"][0]["resources"]
    assert resources["claims"] == claims
    assert resources["limits"] == {
        "memory": "64Gi", "amd.com/gpu": "2", "ephemeral-storage": "10Gi",
    }  # fmt: skip

    preflight = preflight_job(job, IMAGE)["spec"]["template"]["spec"]
    assert "resourceClaims" not in preflight
    assert preflight["containers"][0]["resources"] == PREFLIGHT_RESOURCES.model_dump()
    assert preflight["initContainers"][0]["resources"] == {"requests": {"cpu": "10m"}}
    assert preflight["initContainers"][0]["restartPolicy"] == "Always"


def test_gpus_that_are_claimed_are_not_asked_for_by_name() -> None:
    resources = {"limits": {"nvidia.com/gpu": 0}, "claims": [{"name": "gpus"}]}
    overrides = {"spec": {"containers": [{"name": "trainer", "resources": resources}]}}
    job = quickstart({"globalBatch": 8}, nodes=1, gpusPerNode=8, podOverrides=overrides)
    attempt = attempt_job(job, 0, IMAGE)
    assert trainer_of(attempt)["resources"]["limits"]["nvidia.com/gpu"] == "0"
    assert environment(attempt)["PET_NPROC_PER_NODE"] == "8"


def test_the_preflights_resources_are_fields_and_have_limits_by_default() -> None:
    def resources(**runtime: Any) -> Any:
        return trainer_of(preflight_job(quickstart(**runtime), IMAGE))["resources"]

    assert resources() == {
        "requests": {"cpu": "500m", "memory": "2Gi"},
        "limits": {"cpu": "2", "memory": "4Gi"},
    }
    own = {"limits": {"cpu": "1", "memory": "1Gi"}}
    assert resources(preflight={"resources": own}) == own
    assert resources(preflight={"resources": {}}) == {}, "a LimitRange may decide"
