"""The operator's settings: a YAML file, checked before anything starts."""

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel

from dreambooth_operator.controller.decide.defaults import JobDefaults
from dreambooth_operator.controller.decide.observed import Policy
from dreambooth_operator.errors import UserError

Namespace = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)
]
Name = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)
]
Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]


class InvalidSettingsError(UserError):
    """Settings that cannot be used; the message has one line for each problem."""


class _Part(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_alias=True,
        validate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )


class LeaderElection(_Part):
    """Which of several replicas acts. One replica needs none."""

    enabled: bool = False
    """Hold a Lease before anything is watched."""

    namespace: Namespace = "default"
    """Namespace of the Lease."""

    name: Name = "dreambooth-operator"
    """Name of the Lease."""

    lease_seconds: Seconds = 15
    """A leader that was not heard of for this long is replaced."""

    renew_seconds: Seconds = 5
    """How often the leader renews the Lease."""

    @model_validator(mode="after")
    def _renewed_in_time(self) -> "LeaderElection":
        if self.renew_seconds * 2 > self.lease_seconds:
            raise ValueError("leaseSeconds must be at least twice renewSeconds; raise it")
        return self


class Log(_Part):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least important messages to log."""

    # `json` is a method of pydantic's models.
    as_json: bool = Field(default=False, alias="json")
    """One JSON object on each line, for log collectors."""


class Settings(_Part):
    """Settings of the operator."""

    trainer_image: Annotated[str, StringConstraints(min_length=1, max_length=512)]
    """Image of the trainer for jobs that name none."""

    job_defaults: JobDefaults = JobDefaults()
    """What jobs get where they say nothing themselves."""

    namespaces: list[Namespace] = []
    """Namespaces to watch; empty: all of them, which takes a ClusterRole."""

    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Port of /metrics, /healthz and /readyz; 0: a free one, which is logged."""

    progress_seconds: Annotated[float, Field(ge=1, le=3600)] = 15
    """How often rank 0 of each job is asked for its progress, and a status is written for it."""

    resync_seconds: Annotated[float, Field(ge=1, le=86400)] = 300
    """How often everything is listed, to find what a watch has missed."""

    image_pull_grace_seconds: Seconds = 60
    """How long an image may fail to be pulled before the attempt does: registries have hiccups."""

    config_grace_seconds: Seconds = 60
    """How long a Secret or ConfigMap that a pod names may be missing before the attempt fails."""

    workers: Annotated[int, Field(ge=1, le=64)] = 8
    """How many jobs are looked at at the same time."""

    leader_election: LeaderElection = LeaderElection()
    """Which of several replicas acts."""

    log: Log = Log()
    """What is logged, and how."""

    def policy(self) -> Policy:
        """What of it decisions are made by."""
        return Policy(
            default_image=self.trainer_image,
            progress_seconds=self.progress_seconds,
            image_pull_grace_seconds=self.image_pull_grace_seconds,
            config_grace_seconds=self.config_grace_seconds,
        )


def read_settings(path: Path) -> Settings:
    """The settings in a YAML file; raises `InvalidSettingsError` with every problem."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidSettingsError(f"{path}: {error.strerror}; name a readable file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidSettingsError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(found, dict):
        raise InvalidSettingsError(f"{path}: must be a mapping; write trainerImage: IMAGE")
    try:
        return Settings.model_validate(found, by_alias=True, by_name=False)
    except ValidationError as error:
        raise InvalidSettingsError("\n".join(_lines(path, error))) from error


def _lines(path: Path, error: ValidationError) -> list[str]:
    return [
        f"{path}: {'.'.join(map(str, detail['loc']))}: {_told(detail['type'], detail['msg'])}"
        for detail in error.errors()
    ]


def _told(kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return "unknown setting; remove it, or correct its name"
    if kind == "missing":
        return "required; add it"
    return message.removeprefix("Value error, ")
