"""The numbers and times of a DreamBoothJob that the metrics show.

They are taken from its body when it changes, so that a scrape parses no JSON.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from dreambooth_api.contract.conditions import ConditionType
from dreambooth_api.models.pods.runtime import Runtime
from dreambooth_api.models.status import AttemptStatus, CheckpointStatus, Counters, Status
from dreambooth_operator.controller.kube.objects import Body, required_time

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class JobSummary:
    """A DreamBoothJob as the metrics show it (status.phase, status.progress, status.attempts)."""

    phase: str
    phase_start: datetime
    stage: str
    """What a running job is doing; empty for others."""
    queue: str
    output: str
    """Folder of the run; empty before the first attempt has started."""
    nodes: int
    gpus_per_node: int
    step: int
    target_steps: int
    checkpoint: CheckpointStatus | None
    """The newest one."""
    interruptions: Mapping[str, int]
    """Number of attempts by outcome."""
    attempt: AttemptStatus | None
    """The newest one."""
    ended_attempt: AttemptStatus | None
    """The newest of those that have ended."""


def summarize(body: Body) -> JobSummary:
    """Summarize a DreamBoothJob; parts of another version of the CRD count as empty.

    Never raises `ValidationError`: one odd job must not end the watch of all.
    """
    status = _parse(Status, body.get("status"))
    runtime = _parse(Runtime, (body.get("spec") or {}).get("runtime"))
    progress, artifacts = status.progress, status.artifacts
    counters = status.counters or Counters()
    ended = [attempt for attempt in status.attempts if attempt.ended]
    return JobSummary(
        phase=status.phase or "Pending",
        phase_start=_phase_start(status, required_time(body["metadata"]["creationTimestamp"])),
        stage=status.stage or "",
        queue=runtime.queue or "",
        output=(artifacts and artifacts.output) or "",
        nodes=runtime.nodes,
        gpus_per_node=runtime.gpus_per_node,
        step=progress.step if progress else 0,
        target_steps=progress.total_steps if progress else 0,
        checkpoint=status.last_checkpoint,
        interruptions={
            "Failed": counters.failures,
            "Disrupted": counters.disruptions,
            "Preempted": counters.preemptions,
            "Stalled": counters.stalls,
        },
        attempt=_newest(status.attempts),
        ended_attempt=_newest(ended),
    )


def _parse(model: type[Model], value: Any) -> Model:
    try:
        return model.model_validate_json(json.dumps(value or {}))
    except ValidationError:
        return model.model_validate({})


def _phase_start(status: Status, created: datetime) -> datetime:
    """When the phase began: every change of phase leaves a time in the status."""
    times = [created, status.completion_time]
    if newest := _newest(status.attempts):
        times += [newest.started, newest.running, newest.ended]
    times += [
        condition.last_transition_time
        for condition in status.conditions
        if condition.type in (ConditionType.PREFLIGHT_PASSED, ConditionType.QUEUED)
    ]
    return max(time for time in times if time)


def _newest(attempts: list[AttemptStatus]) -> AttemptStatus | None:
    return max(attempts, key=lambda attempt: attempt.number, default=None)
