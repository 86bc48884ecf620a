"""Experiment trackers."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from dreambooth_api.schema.base import ApiModel, EndpointUrl, ObjectName, SecretKey
from dreambooth_api.schema.rules import rule


class WandbSecret(ApiModel):
    """A Secret that holds the key of Weights & Biases' API."""

    name: ObjectName
    """Name of the Secret, in the job's namespace."""

    key: SecretKey = "WANDB_API_KEY"
    """Key of the Secret."""


class Wandb(ApiModel):
    """Weights & Biases."""

    project: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    """Project to log to."""

    entity: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    """Team or user. Default: the key's own."""

    mode: Literal["online", "offline"] = "online"
    """`offline` writes the run's files beside the other results, to be synchronised later."""

    secret_ref: WandbSecret | None = None
    """The API key. Required when `mode` is `online`."""

    @rule(
        "secretRef",
        "self.mode != 'online' || has(self.secretRef)",
        "is required when mode is online; name a Secret with the API key, or set mode to offline",
    )
    def _online_has_a_secret(self) -> bool:
        return self.mode != "online" or self.secret_ref is not None


class MLflowSecret(ApiModel):
    """A Secret with the credentials of an MLflow server.

    Its keys are `MLFLOW_TRACKING_TOKEN`, or `MLFLOW_TRACKING_USERNAME` and
    `MLFLOW_TRACKING_PASSWORD`.
    """

    name: ObjectName
    """Name of the Secret, in the job's namespace."""


class MLflow(ApiModel):
    """An MLflow server."""

    tracking_uri: EndpointUrl = Field(alias="trackingURI")
    """URL of the server: `https://mlflow.example.com`."""

    experiment: Annotated[str, StringConstraints(min_length=1, max_length=128)] = "dreambooth"
    """Experiment to log to; it is created if there is none."""

    secret_ref: MLflowSecret | None = None
    """The token, or user and password, if the server asks for them."""


class Tracking(ApiModel):
    """Experiment trackers."""

    tensorboard: bool = False
    """Write TensorBoard event files to `<output>/.../tensorboard`."""

    wandb: Wandb | None = None
    """Log to Weights & Biases."""

    mlflow: MLflow | None = None
    """Log to an MLflow server."""
