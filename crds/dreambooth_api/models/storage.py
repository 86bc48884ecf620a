"""Object storage, what is written to it, and the run that a job goes on from."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from dreambooth_api.models.prior import AutoPrompts, Sampler, SamplingSteps
from dreambooth_api.schema.base import (
    ApiModel,
    BucketName,
    EndpointUrl,
    GuidanceScale,
    JobName,
    ObjectName,
    Prompt,
    Region,
    SecretKey,
    Seed,
    Steps,
    StorageUri,
)
from dreambooth_api.schema.map_list import SetList
from dreambooth_api.schema.rules import rule
from dreambooth_api.schema.shared_rules import MAX_PROMPTS, prompts_are_bounded


class CredentialKeys(ApiModel):
    """Names of the keys in a Secret that holds credentials."""

    access_key_id: SecretKey = Field(default="AWS_ACCESS_KEY_ID", alias="accessKeyID")
    """Key of the access key ID."""

    secret_access_key: SecretKey = "AWS_SECRET_ACCESS_KEY"
    """Key of the secret access key."""

    session_token: SecretKey = "AWS_SESSION_TOKEN"
    """Key of the session token; the Secret need not have it."""


class CredentialsSecret(ApiModel):
    """A Secret that holds credentials."""

    name: ObjectName
    """Name of the Secret, in the job's namespace."""

    keys: CredentialKeys = Field(default_factory=CredentialKeys)
    """Names of its keys."""


class Credentials(ApiModel):
    """Where the credentials for object storage come from."""

    # One field, so that another origin can be added without a change of this one.
    secret_ref: CredentialsSecret
    """The Secret that holds them."""


class Storage(ApiModel):
    """How `s3://` URIs are reached.

    Without it: the operator's default, or AWS with the identity of the pods.
    """

    endpoint_url: EndpointUrl | None = Field(default=None, alias="endpointURL")
    """URL of an S3 server that is not AWS: `https://minio.example.com:9000`. It may have a path."""

    region: Region | None = None
    """Region of the buckets."""

    addressing_style: Literal["auto", "path", "virtual"] = "auto"
    """`path`: https://host/bucket/key, as most self-hosted servers need. `virtual`:
    https://bucket.host/key."""

    credentials: Credentials | None = None
    """Keys for the buckets. Unset: the identity of the pods' ServiceAccount."""

    anonymous_buckets: Annotated[list[BucketName], Field(max_length=16), SetList()] = []
    """Names of public buckets. Requests to them carry no credentials: some servers refuse those of
    other accounts, although anyone may read."""


class ResumeFrom(ApiModel):
    """The run that the job goes on from, until it has a checkpoint of its own.

    That run's files are only read. What differs between the two jobs is listed by the preflight.
    """

    job: JobName | None = None
    """Name of a job of this namespace with the same `output`, which may be deleted: of its runs,
    the one whose checkpoint is newest. With the job's own name, its run before it was deleted."""

    uri: StorageUri | None = None
    """The run's folder (`status.artifacts.output`), or that of one of its checkpoints."""

    @rule(
        "uri",
        "has(self.job) != has(self.uri)",
        "name the run by its job or by its uri; set one of the two",
    )
    def _run_is_named_once(self) -> bool:
        return (self.job is None) != (self.uri is None)


class Checkpoints(ApiModel):
    """Durable states that a later attempt resumes from."""

    every: Steps = 500
    """Optimizer steps between checkpoints. One is also written at the end and when asked to stop. A
    kill costs fewer than twice as many steps: unless storage is down, training waits until a
    checkpoint is stored before the next one is due."""

    keep: Annotated[int, Field(ge=1, le=100)] = 2
    """How many of the newest complete checkpoints are kept. The one with the lowest loss stays
    too."""


class Samples(ApiModel):
    """Images made before, during and after training, always from the same seeds."""

    prompts: Annotated[list[Prompt], Field(max_length=MAX_PROMPTS)] = []
    """Prompts. Default: "a photo of <identifier> <class>" for each subject."""

    auto_prompts: AutoPrompts | None = None
    """How many prompts the model of `spec.captioning` writes, beside `prompts`: of each subject in
    turn."""

    every: Steps | None = None
    """Optimizer steps between samples. Unset: only before and after training."""

    count: Annotated[int, Field(ge=1, le=64)] = 4
    """Images per prompt."""

    sampler: Sampler | None = None
    """Sampler. Default: the model's own."""

    steps: SamplingSteps | None = None
    """Sampling steps. Default: the model's own."""

    guidance_scale: GuidanceScale | None = None
    """Guidance scale. Default: the model's own."""

    negative_prompt: Annotated[str, StringConstraints(max_length=512)] = ""
    """What guidance steers away from, with models that have classifier-free guidance."""

    seed: Seed = 42
    """Image i of every prompt starts from seed + i."""

    _prompts_are_bounded = prompts_are_bounded
