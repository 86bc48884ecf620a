"""What `decide` decides by: a job and its children as they were observed, and the policy."""

from dataclasses import dataclass
from datetime import datetime

from dreambooth_api.contract.progress import Progress
from dreambooth_api.models.job import DreamBoothJob
from dreambooth_operator.controller.kube.job_snapshots import JobSnapshot
from dreambooth_operator.controller.kube.pod_snapshots import PodSnapshot


@dataclass(frozen=True)
class Policy:
    """The operator's settings that bear on decisions. Times are in seconds."""

    default_image: str
    """Trainer image of jobs that name none."""
    progress_seconds: float = 15
    """Least time between two writes of a status whose progress alone has changed."""
    image_pull_grace_seconds: float = 60
    """How long pulling an image may fail before its attempt does: registries have outages."""
    config_grace_seconds: float = 60
    """How long a Secret or ConfigMap that a pod refers to may be missing."""


@dataclass(frozen=True)
class Reading:
    """An answer of rank 0 to GET /progress, or why there is none.

    An answer that raised `UnreadableProgressError` is marked `unreadable`.
    """

    time: datetime
    address: str
    progress: Progress | None = None
    problem: str = ""
    """Why there is no progress."""
    unreadable: bool = False
    """There was an answer, but it is not a `Progress`, or of an unknown version."""


@dataclass(frozen=True)
class Blocked:
    """Why the API server refuses a child of the job: a condition's reason and message (meta/v1)."""

    reason: str
    message: str
    retry_seconds: float
    """No watch reports that a Role was extended, a quota raised or an object in the way deleted."""


@dataclass(frozen=True)
class Observed:
    """A DreamBoothJob and its children, from the watches and the newest reading.

    The children are those whose controller it is (meta/v1 OwnerReference).
    """

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
    """Pods of those Jobs; of those that are gone, the last snapshot."""
    reading: Reading | None = None
    blocked: Blocked | None = None
    """Why children could not be applied just now."""
    refusal: str = ""
    """Why the API server refuses the pods of `job_without_pods`, in its own words."""
    damaged: frozenset[str] = frozenset()
    """Kinds of shared children that were deleted or edited: "Service", "ConfigMap"."""

    @property
    def job_without_pods(self) -> JobSnapshot | None:
        """The Job that is waiting for its pods to be created: preflight or newest attempt."""
        job = self.attempts[-1] if self.attempts else self.preflight
        if job is None or not job.live or job.suspended or job.failing:
            return None
        pods = [pod for pod in self.pods_of(job) if not (pod.failed or pod.gone)]
        return job if len(pods) < (job.completions or 1) else None

    def pods_of(self, job: JobSnapshot) -> list[PodSnapshot]:
        """The pods that a Job created, by the uid of their controller (meta/v1 OwnerReference)."""
        return [pod for pod in self.pods if pod.job_uid == job.uid]
