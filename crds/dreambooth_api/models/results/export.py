"""Where the result goes besides `spec.output`."""

from typing import Annotated

from pydantic import StringConstraints

from dreambooth_api.schema.base import REPOSITORY, ApiModel, ObjectName, SecretKey

Repository = Annotated[str, StringConstraints(pattern=REPOSITORY, max_length=192)]


class HubSecret(ApiModel):
    """A Secret that holds a token of the Hugging Face Hub."""

    name: ObjectName
    """Name of the Secret, in the job's namespace."""

    key: SecretKey = "HF_TOKEN"
    """Key of the Secret."""


class PushToHub(ApiModel):
    """A repository of the Hugging Face Hub."""

    repository: Repository
    """Its name, `owner/name`. It is created if there is none."""

    private: bool = True
    """Whether a repository that is created can be seen by its owner alone."""

    secret_ref: HubSecret
    """A token that may write to the repository."""


class Export(ApiModel):
    """Where the result goes besides `output`."""

    push_to_hub: PushToHub | None = None
    """Copy the export to the Hugging Face Hub as well. A failure does not fail the job: the
    condition `PushedToHub` says what is wrong, and the result is in `output` all the same."""
