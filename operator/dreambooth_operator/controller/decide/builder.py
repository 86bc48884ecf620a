"""A decision in the making."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from dreambooth_api.contract.stages import Phase
from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.models.status import Condition, Status
from dreambooth_operator.controller.decide import conditions
from dreambooth_operator.controller.decide.conditions import Truth
from dreambooth_operator.controller.decide.decision import Action, Apply, Decision, DeleteJob
from dreambooth_operator.controller.decide.events import events_between
from dreambooth_operator.controller.decide.observed import Observed, Policy
from dreambooth_operator.controller.kube.snapshots import JobSnapshot, PodSnapshot
from dreambooth_operator.manifests.names import Manifest


@dataclass
class DecisionBuilder:
    """What is seen, and what is to be done about it."""

    seen: Observed
    now: datetime
    policy: Policy
    status: Status
    """The status as it is to be."""
    actions: list[Action] = field(default_factory=list)
    wakes: list[float] = field(default_factory=list)
    poll_address: str | None = None

    @property
    def job(self) -> DreamBoothJob:
        """The job that this is about."""
        return self.seen.job

    def apply(self, manifests: list[Manifest]) -> None:
        """Apply children, in this order."""
        self.actions += [Apply(manifest) for manifest in manifests]

    def delete(self, job: JobSnapshot) -> None:
        """Delete a Job, once."""
        if not job.deleting:
            self.actions.append(DeleteJob(job.name, job.uid))

    def abandon(self, job: JobSnapshot) -> None:
        """Delete a Job whose pods do not stop."""
        self.actions.append(DeleteJob(job.name, job.uid, background=True))

    def wake(self, seconds: float) -> None:
        """Look again after this time at the latest."""
        self.wakes.append(max(seconds, 1.0))

    def is_lost(self, pod: PodSnapshot) -> bool:
        """Whether a pod still runs long after it was asked to stop: nobody is there to stop it."""
        if pod.deletion_requested is None or pod.ended:
            return False
        limit = timedelta(seconds=self.job.spec.runtime.terminating_timeout_seconds)
        left = (pod.deletion_requested + limit - self.now).total_seconds()
        if left > 0:
            self.wake(left)
        return left <= 0

    def phase(self, phase: Phase) -> None:
        """Enter a phase; only a running job has a stage."""
        stage = self.status.stage if phase == "Running" else None
        self.status = self.status.model_copy(update={"phase": phase, "stage": stage})

    def condition(self, kind: str, status: Truth, reason: str, message: str) -> None:
        """Set a condition."""
        new = conditions.condition(kind, status, reason, message, self.seen.generation, self.now)
        self._conditions(conditions.with_condition(self.status.conditions, new))

    def drop_conditions(self, *kinds: str) -> None:
        """Remove conditions that mean nothing any more."""
        self._conditions(conditions.without(self.status.conditions, *kinds))

    def _conditions(self, new: list[Condition]) -> None:
        self.status = self.status.model_copy(update={"conditions": new})

    def decision(self) -> Decision:
        """The finished decision; no status when nothing of it changed."""
        old = self.job.status or Status()
        new = self.status.model_copy(update={"observed_generation": self.seen.generation})
        return Decision(
            actions=tuple(self.actions),
            status=None if new == old else new,
            events=tuple(events_between(old, new)),
            requeue_seconds=min(self.wakes, default=None),
            poll_address=self.poll_address,
        )
