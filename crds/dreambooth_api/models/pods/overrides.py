"""`spec.runtime.podOverrides`: the parts of a pod that a user may change.

Only what is named here can be overridden, so that nothing the operator relies on can be broken. The
Kubernetes objects below these names are opaque: the API server checks them when a pod is created.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, GetCoreSchemaHandler, StringConstraints
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from dreambooth_api.contract import environment
from dreambooth_api.schema.base import (
    ApiModel,
    EnvName,
    LabelValue,
    NullIsAbsent,
    ObjectName,
    ResourceList,
)
from dreambooth_api.schema.map_list import MapList
from dreambooth_api.schema.rules import rule

Opaque = Annotated[dict[str, Any], NullIsAbsent]
"""A part of a core/v1 object, kept as it is but for nulls."""

MAX_DEPTH = 32
"""Levels of overrides: the schema of the API cannot bound them, and a pod has about 15."""

TRAINER = "trainer"
"""Name of the container that trains."""

# The operator, the Job controller and Kueue find pods by these: a changed one would hide a pod from
# its owner, or queue it twice.
RESERVED_LABELS = (
    "dreambooth.dev/",
    "app.kubernetes.io/",
    "batch.kubernetes.io/",
    "kueue.x-k8s.io/",
)


def _any_starts(name: str, prefixes: tuple[str, ...]) -> str:
    return " || ".join(f"{name}.startsWith('{prefix}')" for prefix in prefixes)


class PodMetadata(ApiModel):
    """Labels and annotations of the pods (meta/v1 ObjectMeta)."""

    labels: Annotated[dict[str, LabelValue], Field(max_length=32), NullIsAbsent] = {}
    """Labels added to the pods."""

    annotations: Annotated[
        dict[str, Annotated[str, StringConstraints(max_length=4096)]],
        Field(max_length=32),
        NullIsAbsent,
    ] = {}
    """Annotations added to the pods."""

    @rule(
        "labels",
        f"!self.labels.exists(k, {_any_starts('k', RESERVED_LABELS)})",
        "labels that start with dreambooth.dev/, app.kubernetes.io/, batch.kubernetes.io/ or"
        " kueue.x-k8s.io/ are set by the operator; remove them",
    )
    def _labels_are_free(self) -> bool:
        return not any(key.startswith(RESERVED_LABELS) for key in self.labels)


class NamedObject(ApiModel):
    """An item of a list that is merged by name (core/v1 PodSpec); its other fields are kept."""

    model_config = ConfigDict(extra="allow")

    name: ObjectName
    """Name of the item."""


class VolumeMount(NamedObject):
    """A volume mount of the trainer's container (core/v1 VolumeMount)."""

    mount_path: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    """Where the volume is mounted."""


class EnvVar(ApiModel):
    """An environment variable of the trainer's container (core/v1 EnvVar)."""

    name: EnvName
    """Name of the variable."""

    value: Annotated[str, StringConstraints(max_length=4096)] | None = None
    """Its value. A secret belongs in `valueFrom`."""

    value_from: Opaque | None = None
    """Where the value comes from (core/v1 EnvVarSource), for example a `secretKeyRef`."""

    @rule(
        "name",
        f"!(self.name in {list(environment.RESERVED)}"
        f" || {_any_starts('self.name', environment.RESERVED_PREFIXES)})",
        f"PET_*, DREAMBOOTH_*, {', '.join(environment.RESERVED[:-1])} and"
        f" {environment.RESERVED[-1]} are set by the"
        " operator; remove the variable",
    )
    def _name_is_free(self) -> bool:
        return self.name not in environment.RESERVED and not self.name.startswith(
            environment.RESERVED_PREFIXES
        )

    @rule(
        "value",
        "!has(self.value) || !has(self.valueFrom)",
        "set value or valueFrom, not both; remove one of them",
    )
    def _one_origin(self) -> bool:
        return self.value is None or self.value_from is None


class InitContainer(NamedObject):
    """A container that runs before the trainer's, or beside it (core/v1 Container).

    With `restartPolicy: Always` it is a sidecar: started first, stopped last.
    """

    @rule(
        "name",
        f"self.name != '{TRAINER}'",
        "is the name of the operator's own container; choose another one",
    )
    def _name_is_free(self) -> bool:
        return self.name != TRAINER


class ContainerResources(ApiModel):
    """Resources of the trainer's container (core/v1 ResourceRequirements).

    They are merged over `runtime.resources`. GPUs that come by resource claims are requested once:
    set `gpuResource` to 0 here, and `gpusPerNode` to the number of ranks.
    """

    requests: ResourceList | None = None
    """What the scheduler reserves."""

    limits: ResourceList | None = None
    """What the container may use at most."""

    claims: Annotated[list[NamedObject], Field(max_length=16), MapList("name")] | None = None
    """Claims of the pod that the container uses."""


class ContainerOverrides(ApiModel):
    """Parts of the trainer's container (core/v1 Container)."""

    name: Literal["trainer"]
    """The container: always `trainer`."""

    env: Annotated[list[EnvVar], Field(max_length=64), MapList("name")] | None = None
    """Environment variables, by name."""

    env_from: Annotated[list[Opaque], Field(max_length=16)] | None = None
    """Secrets and ConfigMaps whose keys become environment variables."""

    volume_mounts: (
        Annotated[list[VolumeMount], Field(max_length=32), MapList("mountPath")] | None
    ) = None
    """Mounts of the pod's volumes, by path."""

    resources: ContainerResources | None = None
    """Resources and resource claims. Preflight, which needs no GPU, does not get them."""

    security_context: Opaque | None = None
    """Security context of the container."""


class PodSpecOverrides(ApiModel):
    """Parts of the pods' spec (core/v1 PodSpec)."""

    affinity: Opaque | None = None
    """Affinity of the pods."""

    topology_spread_constraints: Annotated[list[Opaque], Field(max_length=8)] = []
    """How the pods are spread."""

    volumes: Annotated[list[NamedObject], Field(max_length=32), MapList("name")] = []
    """Volumes, by name; `cache` replaces the emptyDir that downloads go to, and models are kept
    there instead of in memory."""

    containers: Annotated[list[ContainerOverrides], Field(max_length=1), MapList("name")] = []
    """The trainer's container."""

    init_containers: Annotated[list[InitContainer], Field(max_length=8), MapList("name")] = []
    """Containers that run before the trainer's, or beside it: sidecars, by name. Preflight has them
    too."""

    resource_claims: Annotated[list[NamedObject], Field(max_length=16), MapList("name")] = []
    """Dynamically allocated devices (core/v1 PodResourceClaim), by name. Preflight has none."""

    security_context: Opaque | None = None
    """Security context of the pods."""

    runtime_class_name: ObjectName | None = None
    """RuntimeClass of the pods."""

    scheduler_name: ObjectName | None = None
    """Scheduler of the pods."""

    host_network: bool | None = None
    """Use the node's network, as some RDMA fabrics need."""

    dns_policy: Literal["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"] | None = None
    """DNS policy of the pods."""


class PodTemplate(ApiModel):
    """The parts of a pod template that can be overridden (core/v1 PodTemplateSpec)."""

    metadata: PodMetadata = Field(default_factory=PodMetadata)
    """Labels and annotations."""

    spec: PodSpecOverrides = Field(default_factory=PodSpecOverrides)
    """Parts of the pods' spec."""


def _check_depth(value: Any) -> Any:
    """Refuse what is nested so deep that writing it would fail; no part of a pod is."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for each in level for child in _children(each)]
        if not level:
            return value
    raise PydanticCustomError("too_deep", "too deep", {"max_depth": MAX_DEPTH})


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


class AsGiven:
    """Annotation: checked as a `PodTemplate`, kept as the plain object that is merged later."""

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        template = core_schema.no_info_before_validator_function(
            _check_depth, handler.generate_schema(PodTemplate)
        )
        return core_schema.no_info_after_validator_function(
            # Only what the user wrote: a default would win over the operator's own value in the
            # merge.
            lambda template: template.model_dump(mode="json", exclude_unset=True),
            template,
            serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value),
        )


PodOverrides = Annotated[dict[str, Any], AsGiven]
