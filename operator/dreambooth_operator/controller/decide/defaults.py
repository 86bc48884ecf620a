"""The operator's defaults for fields that a job leaves unset.

Unlike those of the CRD, which are fixed when a job is created, they are filled in whenever a job is
read: preflight, ConfigMap and pods agree, and a change applies to the next attempt. A value that a
job has visibly set is never replaced.
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from dreambooth_api.models.base import ApiModel, LabelKey, LabelValue, ObjectName
from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.models.runtime import ImagePullSecrets, Runtime, Toleration
from dreambooth_api.models.storage import Storage


class JobDefaults(ApiModel):
    """Defaults of jobs. Every name is that of an object in the job's namespace, never a value."""

    # Types as narrow as the job's own: a job with defaults is as valid as it was without.
    model_config = ConfigDict(frozen=True)

    storage: Storage = Storage()
    """Storage of jobs that name neither an endpoint nor a region. They keep their own `credentials`
    and `addressingStyle` where they have any."""

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


def with_defaults(job: DreamBoothJob, defaults: JobDefaults) -> tuple[DreamBoothJob, list[str]]:
    """Fill in what a job leaves unset.

    Returns:
        The job, and the paths of the fields that were filled in, such as spec.runtime.queue.
    """
    spec = job.spec
    storage, runtime = _storage(spec.storage, defaults.storage), _unset(spec.runtime, defaults)
    filled = [] if storage == spec.storage else ["spec.storage"]
    filled += [f"spec.runtime.{Runtime.model_fields[name].alias}" for name in runtime]
    if not filled:
        return job, []
    update = {"storage": storage, "runtime": spec.runtime.model_copy(update=runtime)}
    return job.model_copy(update={"spec": spec.model_copy(update=update)}), filled


def _storage(own: Storage, default: Storage) -> Storage:
    """The storage of a job that names neither endpoint nor region, filled in from the defaults.

    Those two say whose storage it is, and the settings of one are never mixed with another's.
    `addressingStyle` always has a value, so `auto` counts as unset.
    """
    if own.endpoint_url or own.region:
        return own
    fields = own.model_dump(by_alias=False, exclude_defaults=True)
    return default.model_copy(update={name: getattr(own, name) for name in fields})


def _unset(own: Runtime, defaults: JobDefaults) -> dict[str, Any]:
    """The fields of `runtime` that have a default here and no value there.

    `imagePullPolicy` always has one there; it goes with the image.
    """
    given = {name: getattr(defaults, name) for name in JobDefaults.model_fields}
    return {
        name: value
        for name, value in given.items()
        if name != "storage"
        and value
        and not (own.image if name == "image_pull_policy" else getattr(own, name))
    }
