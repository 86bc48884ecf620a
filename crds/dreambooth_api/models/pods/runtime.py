"""Where and how a job's pods run."""

from typing import Annotated, Literal

from pydantic import Field

from dreambooth_api.contract.restart import RestartPolicy
from dreambooth_api.models.pods.overrides import PodOverrides
from dreambooth_api.schema.base import (
    ApiModel,
    LabelKey,
    LabelValue,
    NullIsAbsent,
    ObjectName,
    PlainText,
    Quantity,
    ResourceList,
    ResourceName,
)
from dreambooth_api.schema.map_list import MapList
from dreambooth_api.schema.rules import rule

# A year: more is a mistake, and a date that far ahead can still be computed.
MAX_SECONDS = 31_536_000
MAX_RANKS_PER_NODE = 16
"""Each rank of a pod has a port of its own for its metrics."""
Seconds = Annotated[int, Field(ge=0, le=MAX_SECONDS)]


class Resources(ApiModel):
    """Resources of a container (core/v1 ResourceRequirements), besides its GPUs."""

    requests: ResourceList = {}
    """What the scheduler reserves."""

    limits: ResourceList = {}
    """What the container may use at most."""

    @rule(
        "requests",
        # A structural schema cannot bound the keys of a map: only a rule can.
        "self.requests.all(k, size(k) > 0 && size(k) <= 253)"
        " && self.limits.all(k, size(k) > 0 && size(k) <= 253)",
        "resource names must have 1 to 253 characters; shorten them",
    )
    def _names_are_bounded(self) -> bool:
        return all(0 < len(name) <= 253 for name in [*self.requests, *self.limits])


class Preflight(ApiModel):
    """The checks of storage, images, model and prompts before GPUs are requested."""

    run_in: Literal["Job", "FirstPod"] | None = None
    """`Job`: a pod without a GPU makes the checks before anything else. `FirstPod`: the first pod
    that trains makes them before it starts, for clusters where no other pod can run.
    Default: `Job`."""

    queue: ObjectName | None = None
    """Kueue LocalQueue that the Job of the checks waits in. Default: that of the job."""

    resources: Resources | None = None
    """Resources of its container. Default: requests of 500m CPU and 2Gi of memory, limits of 2 CPUs
    and 4Gi."""


class LocalObjectReference(ApiModel):
    """A reference to an object of the job's namespace (core/v1 LocalObjectReference)."""

    name: ObjectName
    """Name of the object, in the job's namespace."""


ImagePullSecrets = Annotated[list[LocalObjectReference], Field(max_length=8), MapList("name")]


class Toleration(ApiModel):
    """A taint that the pods tolerate (core/v1 Toleration)."""

    key: LabelKey | None = None
    """Taint key; unset with operator Exists: every taint."""

    operator: Literal["Exists", "Equal"] | None = None
    """`Equal`: the taint has this value. `Exists`: any value. Unset: `Equal`."""

    value: LabelValue | None = None
    """Taint value."""

    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Taint effect; unset: every effect."""

    toleration_seconds: Seconds | None = None
    """How long a NoExecute taint is tolerated."""

    @rule(
        "value",
        "!has(self.value) || !has(self.operator) || self.operator == 'Equal'",
        "has no effect with operator Exists; remove it, or set operator to Equal",
    )
    def _exists_has_no_value(self) -> bool:
        return self.value is None or self.operator != "Exists"

    @rule(
        "key",
        "has(self.key) || has(self.operator) && self.operator == 'Exists'",
        "is required with operator Equal; add it, or set operator to Exists for every taint",
    )
    def _equal_has_a_key(self) -> bool:
        return self.key is not None or self.operator == "Exists"

    @rule(
        "tolerationSeconds",
        "!has(self.tolerationSeconds) || has(self.effect) && self.effect == 'NoExecute'",
        "needs effect NoExecute; set it, or remove tolerationSeconds",
    )
    def _seconds_are_for_no_execute(self) -> bool:
        return self.toleration_seconds is None or self.effect == "NoExecute"


class Restart(ApiModel):
    """How often a job that failed is started again from its last checkpoint."""

    max_failures: Annotated[int, Field(ge=0, le=100)] = 3
    """How many failures and stalls are followed by a restart. Disruptions and preemptions do not
    count."""

    backoff_seconds: Annotated[int, Field(ge=1, le=3600)] = 10
    """Wait before the first restart; doubles with each failure in a row, and with each disruption
    in a row without a newer checkpoint."""

    max_backoff_seconds: Annotated[int, Field(ge=1, le=86_400)] = 600
    """Longest wait between restarts."""

    @rule(
        "maxBackoffSeconds",
        "self.maxBackoffSeconds >= self.backoffSeconds",
        "must be at least backoffSeconds; raise it",
    )
    def _backoff_grows(self) -> bool:
        return self.max_backoff_seconds >= self.backoff_seconds

    def policy(self) -> RestartPolicy:
        """The policy of these numbers, with times in seconds; a local run follows the same."""
        return RestartPolicy(self.max_failures, self.backoff_seconds, self.max_backoff_seconds)


class Ports(ApiModel):
    """TCP ports that the pods listen on.

    A port that is not named is the usual one, or on the node's network (`hostNetwork`) one that
    follows from the job and its attempt.
    """

    rendezvous: Annotated[int, Field(ge=1024, le=65_535)] | None = None
    """Port of rank 0's pod at which the ranks meet. Usually 29500."""

    metrics: Annotated[int, Field(ge=1024, le=65_536 - MAX_RANKS_PER_NODE)] | None = None
    """Port for metrics and progress of a pod's first rank; rank i of the pod has this port + i.
    Usually 9400."""

    @rule(
        "rendezvous",
        "!has(self.rendezvous) || !has(self.metrics) || self.rendezvous < self.metrics"
        f" || self.rendezvous >= self.metrics + {MAX_RANKS_PER_NODE}",
        f"must not be one of the {MAX_RANKS_PER_NODE} ports that start at metrics, on which the"
        " ranks of a pod serve their metrics; choose another one",
    )
    def _ports_are_apart(self) -> bool:
        if self.rendezvous is None or self.metrics is None:
            return True
        return self.rendezvous not in range(self.metrics, self.metrics + MAX_RANKS_PER_NODE)


class Offload(ApiModel):
    """Frozen weights in the host's memory while adapters are trained.

    Those of linear layers in the denoiser's blocks, which are most. A block's are copied to the GPU
    just before it computes, in forward and backward passes.
    """

    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the blocks that are kept in the host's memory; the others stay on the GPU. The less,
    the faster."""


class Runtime(ApiModel):
    """Where and how the pods run."""

    nodes: Annotated[int, Field(ge=1, le=512)] = 1
    """Pods of one attempt, one per node."""

    gpus_per_node: Annotated[int, Field(ge=0, le=MAX_RANKS_PER_NODE)] = 1
    """GPUs of each pod, one rank per GPU. 0: train on the CPU."""

    processes_per_node: Annotated[int, Field(ge=1, le=MAX_RANKS_PER_NODE)] | None = None
    """Ranks of each pod when `gpusPerNode` is 0. Default: 1."""

    strategy: Literal["ddp", "fsdp"] | None = None
    """What each rank holds. `ddp`: the whole model. `fsdp`: its part of the denoiser's weights, and
    of their gradients and moments, for models that do not fit otherwise. A block's weights are put
    together when it is needed, so GPUs need fast links. No effect with a single rank.
    Default: `fsdp` where the job does not fit in `gpuMemory` otherwise, else `ddp`."""

    offload: Offload | None = None
    """Keep frozen weights in the host's memory, for method `lora` with models that do not fit
    otherwise. Each rank needs memory for them in its pod. Unset: they are on the GPU."""

    gpu_resource: ResourceName = "nvidia.com/gpu"
    """Extended resource by which GPUs are requested."""

    gpu_memory: Quantity | None = None
    """Memory of one GPU, for example `80Gi`: preflight then refuses a job that cannot fit."""

    image: PlainText | None = None
    """Trainer image. Default: the operator's."""

    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When the image is pulled."""

    image_pull_secrets: ImagePullSecrets = []
    """Secrets of the job's namespace to pull the image with."""

    resources: Resources = Field(default_factory=Resources)
    """CPU, memory and other resources of the trainer's container."""

    preflight: Preflight = Field(default_factory=Preflight)
    """The checks before GPUs are requested."""

    shm_size: Quantity = "2Gi"
    """Size of /dev/shm, which NCCL needs."""

    node_selector: Annotated[dict[str, LabelValue], Field(max_length=32), NullIsAbsent] = {}
    """Labels that a node must have."""

    tolerations: Annotated[list[Toleration], Field(max_length=32)] = []
    """Taints that are tolerated."""

    queue: ObjectName | None = None
    """Kueue LocalQueue to wait in."""

    priority_class_name: ObjectName | None = None
    """PriorityClass of the pods."""

    service_account_name: ObjectName | None = None
    """ServiceAccount of the pods, for a cloud identity."""

    ports: Ports = Field(default_factory=Ports)
    """TCP ports that the pods listen on."""

    restart: Restart = Field(default_factory=Restart)
    """Restart budget."""

    start_deadline_seconds: Annotated[int, Field(ge=1, le=MAX_SECONDS)] | None = None
    """Fail when the pods do not all run within this time; waiting in a queue does not count. Once
    the job has run, the pods are deleted instead and started again later. Unset: no limit."""

    active_deadline_seconds: Annotated[int, Field(ge=60, le=MAX_SECONDS)] | None = None
    """Fail when the attempts have run for this long in total. Unset: no limit."""

    stall_timeout_seconds: Annotated[int, Field(ge=60, le=MAX_SECONDS)] = 900
    """Restart when no rank of a pod has made progress for this long: no step, no image, no answer
    from storage. Four times as long when they only wait for other pods."""

    termination_grace_period_seconds: Annotated[int, Field(ge=30, le=86_400)] = 300
    """Time for the last checkpoint when a pod is asked to stop."""

    terminating_timeout_seconds: Annotated[int, Field(ge=30, le=86_400)] = 600
    """A pod that takes longer to terminate is considered lost, and the next attempt starts."""

    ttl_seconds_after_finished: Seconds | None = None
    """Delete the DreamBoothJob this long after it ended. What is in storage stays."""

    pod_overrides: PodOverrides = {}
    """Parts of a core/v1 PodTemplateSpec merged over the pods, for example extra volumes and
    variables."""

    @rule(
        "processesPerNode",
        "!has(self.processesPerNode) || self.gpusPerNode == 0",
        "has no effect with GPUs, which have one process each; remove it, or set gpusPerNode to 0",
    )
    def _processes_are_for_the_cpu(self) -> bool:
        return self.processes_per_node is None or self.gpus_per_node == 0

    @rule(
        "resources",
        "!(self.gpuResource in self.resources.requests)"
        " && !(self.gpuResource in self.resources.limits)",
        "GPUs are counted by gpusPerNode; remove them from requests and limits",
    )
    def _gpus_are_counted_once(self) -> bool:
        return not {self.gpu_resource} & {*self.resources.requests, *self.resources.limits}

    @rule(
        "nodeSelector",
        # A structural schema cannot bound the keys of a map: only a rule can.
        "self.nodeSelector.all(k, size(k) > 0 && size(k) <= 316)",
        "keys must have 1 to 316 characters; shorten them",
    )
    def _label_keys_are_bounded(self) -> bool:
        return all(0 < len(key) <= 316 for key in self.node_selector)

    @rule(
        "terminatingTimeoutSeconds",
        "self.terminatingTimeoutSeconds >= self.terminationGracePeriodSeconds",
        "must be at least terminationGracePeriodSeconds, or a pod that is still saving is"
        " considered lost; raise it",
    )
    def _saving_is_not_lost(self) -> bool:
        return self.terminating_timeout_seconds >= self.termination_grace_period_seconds


def world_size(runtime: Runtime) -> int:
    """Ranks of one attempt: spec.runtime.nodes times `ranks_per_node`."""
    return runtime.nodes * ranks_per_node(runtime)


def ranks_per_node(runtime: Runtime) -> int:
    """Ranks of one pod (spec.runtime.gpusPerNode; on the CPU processesPerNode, else 1)."""
    return runtime.gpus_per_node or runtime.processes_per_node or 1
