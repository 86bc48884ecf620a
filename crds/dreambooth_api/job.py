"""The DreamBoothJob."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from dreambooth_api.base import API_VERSION, KIND, ApiModel, StorageUri
from dreambooth_api.model import Model
from dreambooth_api.prior import Prior
from dreambooth_api.runtime import Runtime
from dreambooth_api.status import Status
from dreambooth_api.storage import Checkpoints, Evaluation, Samples, Storage, Tracking
from dreambooth_api.subject import Subject
from dreambooth_api.training import Training


class Spec(ApiModel):
    """What to train, on what, how, where, and where to put the result."""

    model: Model
    """The base model."""

    subjects: Annotated[list[Subject], Field(min_length=1, max_length=16)]
    """What to learn."""

    output: StorageUri
    """Where the results go: `<output>/<namespace>/<name>/<uid>/`."""

    prior: Prior = Field(default_factory=Prior)
    """Class-prior preservation."""

    training: Training = Field(default_factory=Training)
    """How to train."""

    checkpoints: Checkpoints = Field(default_factory=Checkpoints)
    """Durable states."""

    samples: Samples = Field(default_factory=Samples)
    """Images made on the way."""

    evaluation: Evaluation | None = None
    """Scores of the result."""

    tracking: Tracking = Field(default_factory=Tracking)
    """Experiment trackers."""

    storage: Storage = Field(default_factory=Storage)
    """How object storage is reached."""

    runtime: Runtime = Field(default_factory=Runtime)
    """Where and how the pods run."""


class Metadata(ApiModel):
    """The parts of meta/v1 ObjectMeta that a job is known by; the rest is kept as it is."""

    model_config = {"extra": "allow"}

    # <name>-<attempt>-<index>-<5 letters> must be a pod's name and a DNS label: 63 characters at most.
    name: Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=40)]
    """Name of the job."""

    namespace: Annotated[str, StringConstraints(max_length=63)] = "default"
    """Namespace of the job."""

    uid: Annotated[str, StringConstraints(max_length=64)] | None = None
    """Set by the API server."""

    labels: dict[str, str] = {}
    """Labels."""

    annotations: dict[str, str] = {}
    """Annotations."""


class DreamBoothJob(ApiModel):
    """A job that teaches a diffusion model one or more subjects."""

    api_version: Literal["dreambooth.dev/v1alpha1"] = API_VERSION
    kind: Literal["DreamBoothJob"] = KIND
    metadata: Metadata
    spec: Spec
    status: Status | None = None


def output_prefix(job: DreamBoothJob) -> str:
    """Folder of this run: `<output>/<namespace>/<name>/<uid>`."""
    meta = job.metadata
    return "/".join([job.spec.output.rstrip("/"), meta.namespace, meta.name, meta.uid or "local"])


def prior_cache(job: DreamBoothJob) -> str:
    """Folder that jobs share class images in."""
    return job.spec.prior.cache or f"{job.spec.output.rstrip('/')}/prior-cache"


def resolved(job: DreamBoothJob) -> dict[str, Any]:
    """The job with every default filled in, as the API server would store it."""
    return job.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"status"})
