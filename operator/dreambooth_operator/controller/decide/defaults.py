"""The operator's defaults for fields that a job leaves unset.

Unlike those of the CRD, which are fixed when a job is created, they are filled in whenever a job is
read: preflight, ConfigMap and pods agree, and a change applies to the next attempt. A value that a
job has visibly set is never replaced.
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.models.pods.overrides import TRAINER, EnvVar, PodOverrides
from dreambooth_api.models.pods.runtime import (
    ImagePullSecrets,
    Ports,
    Preflight,
    Resources,
    Runtime,
    Toleration,
)
from dreambooth_api.models.rules.subjects import is_in_buckets
from dreambooth_api.models.spec import Spec
from dreambooth_api.models.storage import Storage
from dreambooth_api.schema.base import ApiModel, LabelKey, LabelValue, ObjectName
from dreambooth_api.schema.map_list import MapList
from dreambooth_operator.manifests.overrides import merged


class JobDefaults(ApiModel):
    """Defaults of jobs. Every name is that of an object in the job's namespace, never a value."""

    # Types as narrow as the job's own: a job with defaults is as valid as it was without.
    model_config = ConfigDict(frozen=True)

    storage: Storage = Storage()
    """Storage of jobs that name neither an endpoint nor a region. They keep their own
    `credentials`, `addressingStyle` and `anonymousBuckets` where they have any."""

    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When the image is pulled, for jobs that name no image."""

    image_pull_secrets: ImagePullSecrets = []
    """Secrets of the job's namespace to pull the image with."""

    queue: ObjectName | None = None
    """Kueue LocalQueue to wait in."""

    priority_class_name: ObjectName | None = None
    """PriorityClass of the pods."""

    service_account_name: ObjectName | None = None
    """ServiceAccount of the pods, for a cloud identity."""

    node_selector: Annotated[dict[LabelKey, LabelValue], Field(max_length=32)] = {}
    """Labels that a node must have, for jobs that select none."""

    tolerations: Annotated[list[Toleration], Field(max_length=32)] = []
    """Taints that are tolerated, for jobs that tolerate none."""

    resources: Resources = Resources()
    """CPU, memory and other resources of the trainer's container, for jobs that set neither
    requests nor limits."""

    preflight: Preflight = Preflight()
    """The checks before GPUs are requested; a job sets each field for itself."""

    ports: Ports = Ports()
    """TCP ports of the pods, for jobs that name none."""

    env: Annotated[list[EnvVar], Field(max_length=64), MapList("name")] = []
    """Environment variables of all jobs, for example those of a proxy. A job replaces one by its
    name in its `podOverrides`."""

    pod_overrides: PodOverrides = {}
    """Parts of a core/v1 PodTemplateSpec for all jobs, for example a volume with a company's
    certificates. A job's own `podOverrides` are merged over them."""


MERGED = {"storage", "resources", "preflight", "ports", "env", "pod_overrides"}
"""Defaults that are more than a value in place of none."""


def with_defaults(job: DreamBoothJob, defaults: JobDefaults) -> tuple[DreamBoothJob, list[str]]:
    """Fill in what a job leaves unset.

    Returns:
        The job, and the paths of the fields that were filled in, such as spec.runtime.queue.
    """
    spec = job.spec
    storage, runtime = _storage(spec, defaults.storage), _unset(spec.runtime, defaults)
    filled = [] if storage == spec.storage else ["spec.storage"]
    filled += [f"spec.runtime.{Runtime.model_fields[name].alias}" for name in runtime]
    if not filled:
        return job, []
    update = {"storage": storage, "runtime": spec.runtime.model_copy(update=runtime)}
    return job.model_copy(update={"spec": spec.model_copy(update=update)}), filled


def _storage(spec: Spec, default: Storage) -> Storage:
    """The storage of a job that names neither endpoint nor region, filled in from the defaults.

    Those two say whose storage it is, and the settings of one are never mixed with another's.
    `addressingStyle` always has a value, so `auto` counts as unset.
    """
    own = spec.storage
    if own.endpoint_url or own.region:
        return own
    # A bucket that is public for other jobs is not for one that writes there.
    written = [uri for uri in (spec.output, spec.prior.cache) if uri]
    public = [
        bucket
        for bucket in default.anonymous_buckets
        if not any(is_in_buckets(uri, [bucket]) for uri in written)
    ]
    fields = own.model_dump(by_alias=False, exclude_defaults=True)
    given = {name: getattr(own, name) for name in fields}
    return default.model_copy(update={"anonymous_buckets": public} | given)


def _unset(own: Runtime, defaults: JobDefaults) -> dict[str, Any]:
    """The fields of `runtime` that have a default here and no value there.

    `imagePullPolicy` always has one there; it goes with the image.
    """
    given = {name: getattr(defaults, name) for name in JobDefaults.model_fields}
    unset = {
        name: value
        for name, value in given.items()
        if name not in MERGED
        and value
        and not (own.image if name == "image_pull_policy" else getattr(own, name))
    }
    resources = _without(defaults.resources, own.gpu_resource)
    if own.resources == Resources() != resources:
        unset["resources"] = resources
    preflight = _preflight(own.preflight, defaults.preflight)
    if preflight != own.preflight:
        unset["preflight"] = preflight
    if own.ports == Ports() != defaults.ports:
        unset["ports"] = defaults.ports
    overrides = _pod_overrides(own, defaults)
    if overrides != own.pod_overrides:
        unset["pod_overrides"] = overrides
    return unset


def _preflight(own: Preflight, default: Preflight) -> Preflight:
    values = {name: getattr(own, name) for name in Preflight.model_fields}
    given = {name: value for name, value in values.items() if value is not None}
    return default.model_copy(update=given)


def _without(resources: Resources, name: str) -> Resources:
    """The resources but one: a job's GPUs are counted by its `gpusPerNode` alone."""
    kinds = (resources.requests, resources.limits)
    requests, limits = ({k: v for k, v in kind.items() if k != name} for kind in kinds)
    return Resources(requests=requests, limits=limits)


def _pod_overrides(own: Runtime, defaults: JobDefaults) -> dict[str, Any]:
    """A job's overrides merged over the defaults, `env` included (core/v1 PodTemplateSpec).

    They are merged, as what a job adds to its pods is no reason to leave out the proxy.
    """
    env = [variable.model_dump(mode="json", exclude_unset=True) for variable in defaults.env]
    container = {"containers": [{"name": TRAINER, "env": env}]}
    template = merged({"spec": container} if env else {}, defaults.pod_overrides)
    return merged(template, own.pod_overrides)
