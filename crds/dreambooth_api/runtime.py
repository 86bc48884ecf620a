"""Where and how a job's pods run."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from dreambooth_api.base import ApiModel, LabelKey, LabelValue, ObjectName, Quantity

Seconds = Annotated[int, Field(ge=0, le=31_536_000)]
ResourceName = Annotated[str, StringConstraints(min_length=1, max_length=253)]
ResourceList = Annotated[dict[ResourceName, Quantity], Field(max_length=16)]


class Resources(ApiModel):
    """Resources of the trainer's container. GPUs come from `gpusPerNode`."""

    requests: ResourceList = {}
    """What the scheduler reserves."""

    limits: ResourceList = {}
    """What the container may use at most."""


class Toleration(ApiModel):
    """A core/v1 Toleration."""

    key: LabelKey | None = None
    """Taint key; unset with operator Exists: every taint."""

    operator: Literal["Exists", "Equal"] = "Equal"
    """How key and value are compared."""

    value: LabelValue | None = None
    """Taint value."""

    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Taint effect; unset: every effect."""

    toleration_seconds: Seconds | None = None
    """How long a NoExecute taint is tolerated."""


class RestartPolicy(ApiModel):
    """How often a job that failed is started again from its last checkpoint."""

    max_failures: Annotated[int, Field(ge=0, le=100)] = 3
    """Failures and stalls that are forgiven. Disruptions and preemptions do not count."""

    backoff_seconds: Annotated[int, Field(ge=1, le=3600)] = 10
    """Wait before the first restart; doubles with each failure in a row."""

    max_backoff_seconds: Annotated[int, Field(ge=1, le=86_400)] = 600
    """Longest wait between restarts."""


class Runtime(ApiModel):
    """Where and how the pods run."""

    nodes: Annotated[int, Field(ge=1, le=512)] = 1
    """Pods of one attempt, one per node."""

    gpus_per_node: Annotated[int, Field(ge=0, le=16)] = 1
    """GPUs of each pod, one rank per GPU. 0: train on the CPU."""

    processes_per_node: Annotated[int, Field(ge=1, le=16)] | None = None
    """Ranks of each pod when `gpusPerNode` is 0. Default: 1."""

    gpu_resource: Annotated[str, StringConstraints(min_length=1, max_length=253)] = "nvidia.com/gpu"
    """Extended resource that stands for one GPU."""

    gpu_memory: Quantity | None = None
    """Memory of one GPU, for example `80Gi`: preflight then refuses a job that cannot fit."""

    image: Annotated[str, StringConstraints(pattern=r"^\S+$", min_length=1, max_length=512)] | None = None
    """Trainer image. Default: the operator's."""

    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When the image is pulled."""

    image_pull_secrets: Annotated[list[ObjectName], Field(max_length=8)] = []
    """Secrets to pull the image with."""

    resources: Resources = Field(default_factory=Resources)
    """CPU, memory and other resources of the trainer's container."""

    shm_size: Quantity = "2Gi"
    """Size of /dev/shm, which NCCL needs."""

    node_selector: Annotated[dict[LabelKey, LabelValue], Field(max_length=32)] = {}
    """Labels that a node must have."""

    tolerations: Annotated[list[Toleration], Field(max_length=32)] = []
    """Taints that are tolerated."""

    queue: ObjectName | None = None
    """Kueue LocalQueue to wait in."""

    priority_class: ObjectName | None = None
    """PriorityClass of the pods."""

    service_account: ObjectName | None = None
    """ServiceAccount of the pods, for a cloud identity."""

    suspend: bool = False
    """Stop after a checkpoint and give the GPUs back; set to false to go on."""

    restart: RestartPolicy = Field(default_factory=RestartPolicy)
    """Restart budget."""

    start_deadline_seconds: Seconds = 1800
    """Fail when the pods of an attempt do not all run in this time. Queueing does not count. 0: no limit."""

    active_deadline_seconds: Seconds = 0
    """Fail when the job has run for this long, over all attempts. 0: no limit."""

    stall_timeout_seconds: Seconds = 900
    """Restart when no step was finished for this long. 0: never."""

    termination_grace_period_seconds: Annotated[int, Field(ge=30, le=86_400)] = 300
    """Time for the last checkpoint when a pod is asked to stop."""

    terminating_timeout_seconds: Annotated[int, Field(ge=30, le=86_400)] = 600
    """A pod that is still terminating after this is taken for lost, and the next attempt starts."""

    ttl_seconds_after_finished: Seconds | None = None
    """Delete the DreamBoothJob this long after it ended. What is in storage stays."""

    pod_overrides: dict[str, Any] = {}
    """Parts of a core/v1 PodTemplateSpec merged over the pods: metadata.labels, metadata.annotations, and
    spec.affinity, volumes, env and the like."""


def world_size(runtime: Runtime) -> int:
    """Ranks of one attempt: nodes x GPUs per node, or nodes x processes per node on the CPU."""
    return runtime.nodes * ranks_per_node(runtime)


def ranks_per_node(runtime: Runtime) -> int:
    """Ranks of one pod."""
    return runtime.gpus_per_node or runtime.processes_per_node or 1
