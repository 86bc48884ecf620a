"""What `decide` returns: actions, status and events, which the executor carries out."""

from dataclasses import dataclass
from typing import Literal

from dreambooth_api.models.status import Status
from dreambooth_operator.manifests.names import Manifest


@dataclass(frozen=True)
class Apply:
    """Server-side apply of a child (meta/v1 ApplyOptions).

    An object that the job does not control is never taken over.
    """

    manifest: Manifest


@dataclass(frozen=True)
class DeleteJob:
    """Delete a batch/v1 Job. In the foreground, it exists until its pods have ended."""

    name: str
    uid: str
    background: bool = False
    """Its pods never end: it is removed at once, and its name is free (meta/v1 DeleteOptions)."""


@dataclass(frozen=True)
class DeleteDreamBoothJob:
    """Delete the DreamBoothJob itself (spec.runtime.ttlSecondsAfterFinished), and its children."""


Action = Apply | DeleteJob | DeleteDreamBoothJob


@dataclass(frozen=True)
class Event:
    """A core/v1 Event about the DreamBoothJob."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class Decision:
    """What to do about a job.

    Actions come first. If they change anything, the job is reconciled again, and status and events
    follow from what is observed then; otherwise they are written at once.
    """

    actions: tuple[Action, ...] = ()
    status: Status | None = None
    """The complete new status; None: it has not changed, and nothing is written."""
    events: tuple[Event, ...] = ()
    requeue_seconds: float | None = None
    """Reconcile again after this time, even if nothing happens."""
    poll_address: str | None = None
    """Address of the pod whose progress is polled."""


NOTHING = Decision()
