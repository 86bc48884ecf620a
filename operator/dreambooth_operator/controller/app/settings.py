"""The operator's settings: a YAML file, validated before anything starts."""

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
from pydantic_core import ErrorDetails

from dreambooth_operator.controller.decide.defaults import JobDefaults
from dreambooth_operator.controller.decide.state.observed import Policy
from dreambooth_operator.errors import UserError

Namespace = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)
]
Name = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)
]
Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]


class InvalidSettingsError(UserError):
    """Invalid settings; raised by `read_settings`, with one line for each problem and its field."""


class _Section(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_alias=True,
        validate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )


class LeaderElection(_Section):
    """Election of the one replica that acts, by a Lease. Durations are in seconds."""

    enabled: bool = False
    """Acquire a Lease before watching anything."""

    namespace: Namespace = "default"
    """Namespace of the Lease."""

    name: Name = "dreambooth-operator"
    """Name of the Lease."""

    lease_seconds: Seconds = 15
    """Time without a renewal after which a leader is replaced; at least twice renewSeconds."""

    renew_seconds: Seconds = 5
    """How often the leader renews the Lease."""

    @model_validator(mode="after")
    def _check_durations(self) -> "LeaderElection":
        if self.renew_seconds * 2 > self.lease_seconds:
            raise ValueError("leaseSeconds must be at least twice renewSeconds; raise it")
        return self


class Log(_Section):
    """What the operator logs, and in which format."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level of the messages to log."""

    # `json` is a method of pydantic's models.
    as_json: bool = Field(default=False, alias="json")
    """One JSON object per line, for log collectors."""


class Settings(_Section):
    """The operator's settings. Durations are in seconds."""

    trainer_image: Annotated[str, StringConstraints(min_length=1, max_length=512)]
    """Image of the trainer for jobs that do not set one."""

    job_defaults: JobDefaults = JobDefaults()
    """Values for fields that a job does not set."""

    namespaces: list[Namespace] = []
    """Namespaces to watch; empty: all of them, which requires a ClusterRole."""

    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Port of /metrics, /healthz and /readyz; 0: a free port, which is logged."""

    progress_seconds: Annotated[float, Field(ge=1, le=3600)] = 15
    """Interval at which each job is asked for its progress, and its status written for it."""

    resync_seconds: Annotated[float, Field(ge=1, le=86400)] = 300
    """Interval at which everything is listed, to find changes that a watch has missed."""

    image_pull_grace_seconds: Seconds = 60
    """How long pulling an image may fail before its attempt does: registries have outages."""

    config_grace_seconds: Seconds = 60
    """How long a Secret or ConfigMap of a pod may be missing before its attempt fails."""

    workers: Annotated[int, Field(ge=1, le=64)] = 8
    """Number of jobs that are reconciled at the same time."""

    leader_election: LeaderElection = LeaderElection()
    """Election of the one replica that acts."""

    log: Log = Log()
    """What the operator logs, and in which format."""

    def policy(self) -> Policy:
        """The settings that bear on decisions; durations are in seconds."""
        return Policy(
            default_image=self.trainer_image,
            progress_seconds=self.progress_seconds,
            image_pull_grace_seconds=self.image_pull_grace_seconds,
            config_grace_seconds=self.config_grace_seconds,
        )


def read_settings(path: Path) -> Settings:
    """Read a YAML file; raises `InvalidSettingsError`, which lists every problem."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidSettingsError(f"{path}: {error.strerror}; name a readable file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidSettingsError(f"{path}: not valid YAML: {error}") from error
    # An empty file is None in YAML.
    if not isinstance(values, dict):
        raise InvalidSettingsError(f"{path}: must be a mapping; write trainerImage: IMAGE")
    try:
        return Settings.model_validate(values, by_alias=True, by_name=False)
    except ValidationError as error:
        lines = [
            f"{path}: {'.'.join(map(str, detail['loc']))}: {_message(detail)}"
            for detail in error.errors()
        ]
        raise InvalidSettingsError("\n".join(lines)) from error


def _message(detail: ErrorDetails) -> str:
    """The problem and what to do about it."""
    if detail["type"] == "extra_forbidden":
        return "unknown setting; remove it, or correct its name"
    if detail["type"] == "missing":
        return "required; add it"
    return detail["msg"].removeprefix("Value error, ")
