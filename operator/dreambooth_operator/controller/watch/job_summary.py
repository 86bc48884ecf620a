"""What of a DreamBoothJob is measured: a few numbers and times out of its body.

They are taken out when a watch tells of a change, so that a scrape reads no JSON.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from dreambooth_api.models.runtime import Runtime
from dreambooth_api.models.status import AttemptStatus, Counters, Status
from dreambooth_operator.controller.decide import conditions
from dreambooth_operator.controller.kube.snapshots import Body, required_time

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class JobSummary:
    """A job as it is measured."""

    phase: str
    since: datetime
    """When the phase began."""
    stage: str
    """What a running job does; empty for others."""
    queue: str
    output: str
    """Folder of the run; empty before it has trained."""
    nodes: int
    gpus_per_node: int
    step: int
    target_steps: int
    checkpoint: tuple[int, datetime] | None
    """Step and time of the newest one."""
    interruptions: Mapping[str, int]
    """Ends of attempts by outcome."""
    attempt: AttemptStatus | None
    """The newest one."""
    ended: AttemptStatus | None
    """The newest of those that have ended."""


def summarize(body: Body) -> JobSummary:
    """The summary of a DreamBoothJob. What is not understood of it counts as not there."""
    status = _read(Status, body.get("status"))
    runtime = _read(Runtime, (body.get("spec") or {}).get("runtime"))
    progress, last, made = status.progress, status.last_checkpoint, status.artifacts
    return JobSummary(
        phase=status.phase or "Pending",
        since=_since(status, required_time(body["metadata"]["creationTimestamp"])),
        stage=status.stage or "",
        queue=runtime.queue or "",
        output=(made and made.output) or "",
        nodes=runtime.nodes,
        gpus_per_node=runtime.gpus_per_node,
        step=progress.step if progress else 0,
        target_steps=progress.total_steps if progress else 0,
        checkpoint=(last.step, last.time) if last else None,
        interruptions=_by_outcome(status.counters or Counters()),
        attempt=max(status.attempts, key=_number, default=None),
        ended=max((each for each in status.attempts if each.ended), key=_number, default=None),
    )


def _read(model: type[Model], found: Any) -> Model:
    """A part of the body; a definition that is older or newer lets through what no model knows."""
    try:
        return model.model_validate_json(json.dumps(found or {}))
    except ValidationError:
        return model.model_validate({})


def _since(status: Status, created: datetime) -> datetime:
    """When the phase began: every change of it leaves a time in the status."""
    newest = max(status.attempts, key=_number, default=None)
    times = [created, status.completion_time]
    if newest:
        times += [newest.started, newest.running, newest.ended]
    for kind in (conditions.PREFLIGHT_PASSED, conditions.QUEUED):
        found = conditions.find(status.conditions, kind)
        times.append(found.last_transition_time if found else None)
    return max(time for time in times if time)


def _by_outcome(counters: Counters) -> Mapping[str, int]:
    """The counters by the outcome that they count, as a status names it."""
    return {
        "Failed": counters.failures,
        "Disrupted": counters.disruptions,
        "Preempted": counters.preemptions,
        "Stalled": counters.stalls,
    }


def _number(attempt: AttemptStatus) -> int:
    return attempt.number
