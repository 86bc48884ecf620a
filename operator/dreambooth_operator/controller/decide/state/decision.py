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
    """Delete a Job (batch/v1). In the foreground, it exists until its pods have ended.

    That is the barrier between two attempts: the next one starts when the Job is gone.
    """

    name: str
    uid: str
    background: bool = False
    """Its pods never end: it is removed at once, and its name is free (meta/v1 DeleteOptions)."""


@dataclass(frozen=True)
class StopJob:
    """Stop a Job's pods and keep the Job, which then fails (batch/v1, activeDeadlineSeconds)."""

    name: str
    uid: str
    reason: str
    """Kept as an annotation: the Job itself only says that its deadline passed."""


@dataclass(frozen=True)
class DeleteDreamBoothJob:
    """Delete the DreamBoothJob (spec.runtime.ttlSecondsAfterFinished); its children follow."""


Action = Apply | DeleteJob | StopJob | DeleteDreamBoothJob


@dataclass(frozen=True)
class Event:
    """An event about the DreamBoothJob (core/v1 Event)."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class Decision:
    """What to do about a job: actions, then status and events; times are in seconds.

    Actions come first. If they change anything, the job is reconciled again, and status and events
    follow from what is observed then; otherwise they are written at once.
    """

    actions: tuple[Action, ...] = ()
    status: Status | None = None
    """The complete new status; None: it has not changed, and nothing is written."""
    events: tuple[Event, ...] = ()
    requeue_seconds: float | None = None
    """Reconcile again after so many seconds, even if nothing happens."""
    poll_address: str | None = None
    """Address of the pod whose progress is polled."""


NOTHING = Decision()
