"""What `decide` wants done: the output of the pure core, carried out by `cluster`."""

from dataclasses import dataclass
from typing import Literal

from dreambooth_api.models.status import Status
from dreambooth_operator.manifests.names import Manifest


@dataclass(frozen=True)
class Apply:
    """Server-side apply of a child. Never takes over an object that the job does not control."""

    manifest: Manifest


@dataclass(frozen=True)
class DeleteJob:
    """Delete a batch/v1 Job in the foreground: it is there until its pods have ended."""

    name: str
    uid: str
    background: bool = False
    """Its pods never end: in the background, its name is free at once."""


@dataclass(frozen=True)
class DeleteDreamBoothJob:
    """Delete the DreamBoothJob itself, as its time to live is over. Its children go with it."""


Action = Apply | DeleteJob | DeleteDreamBoothJob


@dataclass(frozen=True)
class Event:
    """A Kubernetes event about the DreamBoothJob."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class Decision:
    """Actions come first. When they changed anything, the job is looked at again, and what it then
    is stands in the status; else status and events follow at once.
    """

    actions: tuple[Action, ...] = ()
    status: Status | None = None
    """The whole new status; None: unchanged, nothing is written."""
    events: tuple[Event, ...] = ()
    requeue_seconds: float | None = None
    """Look again after this time, even if nothing happens."""
    poll_address: str | None = None
    """Address of the pod that is to be asked for its progress."""


NOTHING = Decision()
