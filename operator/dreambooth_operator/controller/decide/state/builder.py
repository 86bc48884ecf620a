"""Builds a decision step by step."""

import re
from dataclasses import dataclass, field
from datetime import datetime

from dreambooth_api.contract.conditions import ConditionType, Reason
from dreambooth_api.contract.message import printable
from dreambooth_api.contract.stages import Phase
from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.models.pods.runtime import Runtime
from dreambooth_api.models.status import Condition, Status
from dreambooth_api.schema.base import CONDITION_REASON
from dreambooth_operator.controller.decide.state.conditions import (
    MAX_MESSAGE,
    ConditionStatus,
    condition_status,
    keep_transitions,
    remove_conditions,
    set_condition,
)
from dreambooth_operator.controller.decide.state.decision import (
    Action,
    Apply,
    Decision,
    DeleteJob,
    StopJob,
)
from dreambooth_operator.controller.decide.state.events import events_between
from dreambooth_operator.controller.decide.state.observed import Observed, Policy
from dreambooth_operator.controller.kube.job_snapshots import JobSnapshot
from dreambooth_operator.manifests.names import Manifest

# Times in statuses have whole seconds: sooner, the clock would still read the same.
MIN_REQUEUE_SECONDS = 1.0
REASON = re.compile(rf"(?=.{{1,1024}}$){CONDITION_REASON}")


@dataclass
class DecisionBuilder:
    """What was observed, and the decision so far, to which each policy adds. Times in seconds."""

    observed: Observed
    now: datetime
    """In UTC, to the second."""
    policy: Policy
    status: Status
    """The status to be written."""
    actions: list[Action] = field(default_factory=list)
    requeues: list[float] = field(default_factory=list)
    """Seconds until something is due."""
    poll_address: str | None = None

    @property
    def job(self) -> DreamBoothJob:
        """The job in question, with the operator's defaults (spec and status)."""
        return self.observed.job

    @property
    def runtime(self) -> Runtime:
        """The job's runtime settings (spec.runtime)."""
        return self.job.spec.runtime

    def apply(self, manifests: list[Manifest]) -> None:
        """Apply children, in this order (meta/v1 ApplyOptions)."""
        self.actions += [Apply(manifest) for manifest in manifests]

    def delete(self, job: JobSnapshot) -> None:
        """Delete a Job (batch/v1), unless that was requested before."""
        if not job.deleting:
            self.actions.append(DeleteJob(job.name, job.uid))

    def stop(self, job: JobSnapshot, reason: str) -> None:
        """Stop a Job and keep it for inspection, unless that was requested before (batch/v1)."""
        if job.live and not job.stop_reason:
            self.actions.append(StopJob(job.name, job.uid, printable(reason, MAX_MESSAGE)))

    def requeue_after(self, seconds: float) -> None:
        """Have the job reconciled again after `seconds`; the earliest of all requests counts."""
        self.requeues.append(max(seconds, MIN_REQUEUE_SECONDS))

    def update_status(self, **values: object) -> None:
        """Set fields of the status."""
        self.status = self.status.model_copy(update=values)

    def set_phase(self, phase: Phase) -> None:
        """Set the phase (status.phase).

        Only a running job has a stage, a loss and a time left (status.stage, status.progress).
        """
        self.update_status(phase=phase)
        if phase != "Running":
            progress = self.status.progress
            if progress is not None:
                progress = progress.model_copy(update={"loss": None, "eta": None})
            self.update_status(stage=None, progress=progress)

    def set_condition(
        self, kind: ConditionType, status: ConditionStatus, reason: str, message: str
    ) -> None:
        """Set a condition (meta/v1 Condition).

        Reasons and messages of kubelets, providers of virtual nodes and pods may have any form: the
        API server would refuse the status.
        """
        condition = Condition(
            type=kind,
            status=status,
            reason=reason if REASON.fullmatch(reason) else Reason.OTHER,
            message=printable(message, MAX_MESSAGE),
            observed_generation=self.observed.generation,
            last_transition_time=self.now,
        )
        self.update_status(conditions=set_condition(self.status.conditions, condition))

    def remove_conditions(self, *kinds: ConditionType) -> None:
        """Remove conditions that no longer apply (status.conditions)."""
        self.update_status(conditions=remove_conditions(self.status.conditions, *kinds))

    def condition_status(self, kind: ConditionType) -> ConditionStatus:
        """Status of a condition (status.conditions[].status); Unknown when there is none."""
        return condition_status(self.status.conditions, kind)

    def build(self) -> Decision:
        """The finished decision; without a status when nothing of it changed."""
        old = self.job.status or Status()
        self.update_status(
            conditions=keep_transitions(old.conditions, self.status.conditions),
            observed_generation=self.observed.generation,
        )
        return Decision(
            actions=tuple(self.actions),
            status=None if self.status == old else self.status,
            events=tuple(events_between(old, self.status)),
            requeue_seconds=min(self.requeues, default=None),
            poll_address=self.poll_address,
        )
