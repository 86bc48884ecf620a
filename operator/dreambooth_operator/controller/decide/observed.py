"""Everything that is known about one DreamBoothJob at one moment: the input of `decide`."""

from dataclasses import dataclass
from datetime import datetime

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_operator.controller.kube.snapshots import JobSnapshot, PodSnapshot
from dreambooth_operator.local.progress import TrainerProgress


@dataclass(frozen=True)
class Reading:
    """What rank 0 answered when it was asked for its progress, or why there is no answer."""

    time: datetime
    address: str
    progress: TrainerProgress | None = None
    problem: str = ""


@dataclass(frozen=True)
class Obstacle:
    """Why the API server does not let children be made: reason and message of a condition."""

    reason: str
    message: str


@dataclass(frozen=True)
class Observed:
    """A job and its children, as the watches and the last reading showed them."""

    job: DreamBoothJob
    """With the operator's defaults, and the status that was written last."""
    generation: int
    created: datetime
    defaulted: tuple[str, ...] = ()
    """Paths of the fields that the operator's defaults fill in."""
    deleting: bool = False
    attempts: tuple[JobSnapshot, ...] = ()
    """Jobs of attempts that this DreamBoothJob controls, by number."""
    preflight: JobSnapshot | None = None
    pods: tuple[PodSnapshot, ...] = ()
    """Pods of those Jobs, also the last view of those that are gone."""
    reading: Reading | None = None
    obstacle: Obstacle | None = None
    """Why children could not be made just now."""
    missing: frozenset[str] = frozenset()
    """Kinds of shared children that are gone: "Service", "ConfigMap"."""
