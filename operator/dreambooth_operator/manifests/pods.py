"""The pod templates of training and preflight (core/v1 PodTemplateSpec)."""

from collections.abc import Sequence
from typing import Any

from dreambooth_api.contract import environment
from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.models.pods.runtime import Resources, Runtime, ranks_per_node
from dreambooth_api.schema.base import ApiModel
from dreambooth_operator.manifests import names
from dreambooth_operator.manifests.metadata import template_metadata
from dreambooth_operator.manifests.names import Manifest
from dreambooth_operator.manifests.overrides import merged, without_devices
from dreambooth_operator.manifests.ports import pod_ports, uses_host_network
from dreambooth_operator.manifests.variables import (
    CACHE_FOLDER,
    TERMINATION_LOG,
    common_env,
    push_env,
    rendezvous_env,
    variable,
)

CONFIG_FOLDER = "/etc/dreambooth"
CONFIG_FILE = "job.yaml"
CACHE = "cache"
MODELS_VOLUME = "models-in-memory"
"""Not `models`, as a volume of the job with the same name would take its place."""
MODELS_FOLDER = "/run/dreambooth/models"
"""Where no user is likely to mount models of their own."""
# Enough to decode images and read a model's headers; no weights are loaded.
PREFLIGHT_RESOURCES = Resources(
    requests={"cpu": "500m", "memory": "2Gi"},
    # Some quotas and policies demand limits of every container.
    limits={"cpu": "2", "memory": "4Gi"},
)
PREFLIGHT_GRACE_SECONDS = 30
PREFLIGHT_DEADLINE_SECONDS = 900


def trainer_template(
    job: DreamBoothJob, attempt: int, default_image: str, *, preflight: bool
) -> Manifest:
    """The template of the pods that train (core/v1 PodTemplateSpec), with the job's overrides.

    `default_image` is the trainer's image for jobs that name none; `preflight` has the first pod
    check the job.
    """
    runtime, ports = job.spec.runtime, pod_ports(job, attempt)
    container = _container(
        job,
        default_image,
        module="dreambooth_trainer.launcher",
        env=common_env(job) + rendezvous_env(job, attempt, ports) + push_env(job),
        resources=_trainer_resources(runtime),
    )
    if preflight:
        container["env"].append(variable(environment.PREFLIGHT, 1))
    volumes = _volumes(job)
    if not _has_own_cache(runtime):
        container["env"].append(variable(environment.MODELS_DIR, MODELS_FOLDER))
        container["volumeMounts"].append({"name": MODELS_VOLUME, "mountPath": MODELS_FOLDER})
        volumes.append({"name": MODELS_VOLUME, "emptyDir": {"medium": "Memory"}})
    container["ports"] = _metrics_ports(runtime, ports.metrics)
    if uses_host_network(job):
        # The scheduler then passes over nodes on which a pod has declared it already.
        container["ports"].append(_port("rendezvous", ports.rendezvous))
    container["readinessProbe"] = _readiness_probe()
    grace_seconds = runtime.termination_grace_period_seconds
    spec = _pod_spec(job, container, volumes, grace_seconds=grace_seconds)
    # With the headless Service, each pod has the DNS name <job>-<index>.<service>.
    spec["subdomain"] = names.service_name(job)
    spec |= _placement(runtime)
    # Overrides come last: the API has already refused those of fields that the operator relies on.
    meta = template_metadata(job, names.labels(job, names.TRAINER, attempt))
    return _with_overrides({"metadata": meta, "spec": spec}, runtime.pod_overrides)


def preflight_template(job: DreamBoothJob, default_image: str) -> Manifest:
    """The template of the preflight's pod (core/v1 PodTemplateSpec).

    It needs no GPU, so any node will do: neither nodeSelector nor priority of the job apply.
    """
    container = _container(
        job,
        default_image,
        module="dreambooth_trainer.preflight",
        env=common_env(job),
        resources=_resources(preflight_resources(job.spec.runtime)),
    )
    spec = _pod_spec(job, container, _volumes(job), grace_seconds=PREFLIGHT_GRACE_SECONDS)
    # Of the pod, not of the Job: its time starts when a node has started the pod, which may wait
    # for one until the job's start deadline.
    spec["activeDeadlineSeconds"] = PREFLIGHT_DEADLINE_SECONDS
    spec |= _tolerations(job.spec.runtime)
    meta = template_metadata(job, names.labels(job, names.PREFLIGHT))
    overrides = without_devices(job.spec.runtime.pod_overrides)
    return _with_overrides({"metadata": meta, "spec": spec}, overrides)


def preflight_resources(runtime: Runtime) -> Resources:
    """Resources of the preflight's container (spec.runtime.preflight.resources)."""
    return runtime.preflight.resources or PREFLIGHT_RESOURCES


def _with_overrides(template: Manifest, overrides: Manifest) -> Manifest:
    """Merge the overrides; pods on the node's network still need the cluster's DNS."""
    result: Manifest = merged(template, overrides)
    if result["spec"].get("hostNetwork"):
        result["spec"].setdefault("dnsPolicy", "ClusterFirstWithHostNet")
    return result


def _has_own_cache(runtime: Runtime) -> bool:
    """Whether the job mounts a cache of its own, which outlives its pods.

    Without one, models are kept in memory: no later attempt could read them from the node's disk.
    """
    # podOverrides is kept as the user wrote it, so every level may be missing.
    volumes = runtime.pod_overrides.get("spec", {}).get("volumes", [])
    return any(volume["name"] == CACHE for volume in volumes)


def _pod_spec(
    job: DreamBoothJob, container: Manifest, volumes: list[Manifest], *, grace_seconds: int
) -> Manifest:
    """A PodSpec under the `restricted` Pod Security Standard, without access to the API server."""
    runtime = job.spec.runtime
    spec: Manifest = {
        "restartPolicy": "Never",  # a rank cannot rejoin its peers: a new attempt starts them all
        "terminationGracePeriodSeconds": grace_seconds,
        "automountServiceAccountToken": False,
        # The variables of a namespace with thousands of Services can exceed the limit of exec.
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": volumes,
    }
    if runtime.image_pull_secrets:
        spec["imagePullSecrets"] = _plain(runtime.image_pull_secrets)
    # A cloud's webhook mounts a token of its own, whatever automountServiceAccountToken is.
    if runtime.service_account_name:
        spec["serviceAccountName"] = runtime.service_account_name
    return spec


def _container(
    job: DreamBoothJob, default_image: str, *, module: str, env: list[Manifest], resources: Manifest
) -> Manifest:
    runtime = job.spec.runtime
    return {
        "name": names.TRAINER,
        "image": runtime.image or default_image,
        "imagePullPolicy": runtime.image_pull_policy,
        # Not `command`: the image's entrypoint stays process 1, which forwards signals.
        "args": ["python", "-m", module, "--config", f"{CONFIG_FOLDER}/{CONFIG_FILE}"],
        "env": env,
        "resources": resources,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,  # writable are only the volumes below
        },
        "terminationMessagePath": TERMINATION_LOG,
        # A container that is killed or crashes writes no message: its last lines of log stand in.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG_FOLDER, "readOnly": True},
            {"name": CACHE, "mountPath": CACHE_FOLDER},
            # NCCL and the data loader's workers share memory: the default of 64 MiB is too small.
            {"name": "shm", "mountPath": "/dev/shm"},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }


def _volumes(job: DreamBoothJob) -> list[Manifest]:
    shm = {"medium": "Memory", "sizeLimit": job.spec.runtime.shm_size}
    return [
        {"name": "config", "configMap": {"name": names.config_name(job)}},
        {"name": CACHE, "emptyDir": {}},
        {"name": "shm", "emptyDir": shm},
        {"name": "tmp", "emptyDir": {}},
    ]


def _trainer_resources(runtime: Runtime) -> Manifest:
    """The job's resources plus its GPUs."""
    gpus = {runtime.gpu_resource: str(runtime.gpus_per_node)} if runtime.gpus_per_node else {}
    given = runtime.resources
    return _resources(Resources(requests=given.requests | gpus, limits=given.limits | gpus))


def _resources(given: Resources) -> Manifest:
    """The resources of a container, without what is empty (core/v1 ResourceRequirements)."""
    kinds = {"requests": given.requests, "limits": given.limits}
    return {kind: dict(amounts) for kind, amounts in kinds.items() if amounts}


def _metrics_ports(runtime: Runtime, first: int) -> list[Manifest]:
    """One port per rank of the pod: `metrics`, `metrics-1`, `metrics-2` and so on."""
    # Prometheus' pod discovery makes a target of each port that is declared.
    return [
        _port(f"metrics-{local_rank}" if local_rank else names.METRICS_PORT, first + local_rank)
        for local_rank in range(ranks_per_node(runtime))
    ]


def _port(name: str, number: int) -> Manifest:
    return {"name": name, "containerPort": number, "protocol": "TCP"}


def _readiness_probe() -> Manifest:
    """Readiness: the pod's first rank has joined the others and serves its metrics."""
    return {
        # Half a minute of silence: a checkpoint may hold up the process that answers for some
        # seconds.
        "httpGet": {"path": "/healthz", "port": names.METRICS_PORT},
        "periodSeconds": 5,
        "timeoutSeconds": 5,
        "failureThreshold": 6,
    }


def _placement(runtime: Runtime) -> Manifest:
    """The fields that tell the scheduler where the pods that train may run."""
    placement: dict[str, Any] = {}
    if runtime.node_selector:
        placement["nodeSelector"] = dict(runtime.node_selector)
    placement |= _tolerations(runtime)
    if runtime.priority_class_name:
        placement["priorityClassName"] = runtime.priority_class_name
    return placement


def _tolerations(runtime: Runtime) -> Manifest:
    """Taints that the pods tolerate."""
    return {"tolerations": _plain(runtime.tolerations)} if runtime.tolerations else {}


def _plain(models: Sequence[ApiModel]) -> list[Manifest]:
    """Parts of the job that have core/v1's own shape."""
    return [model.model_dump(mode="json", exclude_none=True) for model in models]
