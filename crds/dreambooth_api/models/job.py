"""The DreamBoothJob."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, model_validator

from dreambooth_api.contract.layout import OutputLayout
from dreambooth_api.models.spec import Spec
from dreambooth_api.models.status import Status
from dreambooth_api.schema.base import (
    ACCEPTED,
    ApiModel,
    JobName,
    NamespaceName,
    NullIsAbsent,
    ObjectUid,
)


class Metadata(ApiModel):
    """The parts of a job's metadata that are used (meta/v1 ObjectMeta); the rest is kept."""

    model_config = ConfigDict(extra="allow")

    # <name>-<attempt>-<index>-<5 letters> must be a pod's name and a DNS label: 63 characters at
    # most.
    name: JobName
    """Name of the job."""

    namespace: NamespaceName = "default"
    """Namespace of the job."""

    uid: ObjectUid | None = None
    """Set by the API server. A folder of the output is named after it."""

    labels: Annotated[dict[str, str], NullIsAbsent] = {}
    """Labels."""

    annotations: Annotated[dict[str, str], NullIsAbsent] = {}
    """Annotations."""


class DreamBoothJob(ApiModel):
    """A job that teaches a diffusion model one or more subjects."""

    api_version: Literal["dreambooth.dev/v1alpha1"]
    kind: Literal["DreamBoothJob"]
    metadata: Metadata
    spec: Spec
    status: Status | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_stored(cls, data: Any) -> Any:
        # Before validation, which is strict: it would refuse 8.0 for an integer.
        return stored(data)


def stored(value: Any) -> Any:
    """Read a value of a job file as the API server does: 8.0 is 8."""
    if isinstance(value, dict):
        return {key: stored(item) for key, item in value.items()}
    if isinstance(value, list):
        return [stored(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def accepted(data: Any) -> DreamBoothJob:
    """The job of a run that has begun, whatever rules have come since.

    Raises:
        ValidationError: It has not the form of a job (pydantic).
    """
    return DreamBoothJob.model_validate(data, context=ACCEPTED)


def output_layout(job: DreamBoothJob) -> OutputLayout:
    """The layout of the run's folder, `<output>/<namespace>/<name>/<uid>` (spec.output)."""
    meta = job.metadata
    return OutputLayout.of(job.spec.output, meta.namespace, meta.name, meta.uid)


def prior_cache(job: DreamBoothJob) -> str:
    """Folder in which jobs share class images (spec.prior.cache, else below spec.output)."""
    return job.spec.prior.cache or f"{job.spec.output.rstrip('/')}/prior-cache"


def resolved(job: DreamBoothJob) -> dict[str, Any]:
    """The job with every default filled in, as the API server would store it."""
    return job.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"status"})
