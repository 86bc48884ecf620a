"""What the operator reports."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from dreambooth_api.contract.stages import Outcome, Phase, Stage
from dreambooth_api.schema.base import CONDITION_REASON, CONDITION_TYPE, ApiModel, Time
from dreambooth_api.schema.map_list import MapList

Text = Annotated[str, StringConstraints(max_length=4096)]
ConditionTypeName = Annotated[str, StringConstraints(pattern=CONDITION_TYPE, max_length=316)]
ConditionReason = Annotated[
    str, StringConstraints(pattern=CONDITION_REASON, min_length=1, max_length=1024)
]
Count = Annotated[int, Field(ge=0)]


class Condition(ApiModel):
    """A condition of the job (meta/v1 Condition)."""

    type: ConditionTypeName
    """Kind of condition."""

    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""

    reason: ConditionReason
    """Reason in one CamelCase word, for programs."""

    message: Annotated[str, StringConstraints(max_length=32_768)]
    """Explanation in a sentence."""

    observed_generation: Count | None = None
    """Generation of the job that the condition is about."""

    last_transition_time: Time
    """When `status` last changed."""


class ProgressStatus(ApiModel):
    """Progress as rank 0 reported it."""

    step: Count = 0
    """Optimizer steps done."""

    total_steps: Count = 0
    """Optimizer steps to do."""

    loss: Annotated[str, StringConstraints(max_length=32)] | None = None
    """Total loss, as text: a status holds no floating-point numbers."""

    images_per_second: Annotated[str, StringConstraints(max_length=32)] | None = None
    """Subject and prior images per second over all ranks."""

    eta: Annotated[str, StringConstraints(max_length=32)] | None = None
    """Time left, for example `12m`."""

    updated_at: Time | None = None
    """When it was read."""


class CheckpointStatus(ApiModel):
    """The newest durable checkpoint."""

    step: Count
    """Step that it resumes from."""

    uri: Annotated[str, StringConstraints(max_length=2048)]
    """Its folder."""

    time: Time
    """When its manifest was written."""

    refusals: Count = 0
    """Attempts since then that ended with exit codes 64 to 67. After 20 the job fails."""

    total_refusals: Count = 0
    """Attempts since the first checkpoint that ended so. After 200 the job fails."""


class BestStatus(ApiModel):
    """The checkpoint with the best scores (spec.evaluation.every)."""

    step: Count
    """Step that it was scored at."""

    score: Annotated[str, StringConstraints(max_length=32)]
    """Product of the scores that it was chosen by (spec.evaluation.select), as text."""


class AttemptStatus(ApiModel):
    """One attempt and how it ended."""

    number: Count
    """Attempt, from 0."""

    started: Time
    """When its Job was created."""

    running: Time | None = None
    """When all its ranks had joined."""

    ended: Time | None = None
    """When its pods had all ended."""

    outcome: Outcome | None = None
    """How it ended, or is about to: its pods may still be stopping."""

    final: bool = False
    """No other attempt follows."""

    reason: Text = ""
    """The first failure, in words. Of an attempt that succeeded, why training ended before its last
    step, if it did."""

    rank: Count | None = None
    """First rank that failed."""

    node: Annotated[str, StringConstraints(max_length=253)] | None = None
    """Node of that rank."""

    exit_code: Annotated[int, Field(ge=0, le=255)] | None = None
    """Its exit code."""

    checkpoint_step: Count | None = None
    """Step of the job's newest checkpoint when the attempt ended."""


class Counters(ApiModel):
    """Interruptions of attempts by kind. Only failures and stalls use up the restart budget."""

    failures: Count = 0
    """A rank failed."""

    disruptions: Count = 0
    """A node was drained or lost."""

    preemptions: Count = 0
    """The queue took the nodes back."""

    stalls: Count = 0
    """No step was finished for `runtime.stallTimeoutSeconds`."""


class Artifacts(ApiModel):
    """Where the results are."""

    output: Annotated[str, StringConstraints(max_length=2048)] | None = None
    """Folder of this run."""

    export: Annotated[str, StringConstraints(max_length=2048)] | None = None
    """Folder of the exported model."""

    samples: Annotated[str, StringConstraints(max_length=2048)] | None = None
    """The newest sample grid."""

    report: Annotated[str, StringConstraints(max_length=2048)] | None = None
    """The page that shows a run that succeeded, `report.html`."""


class Status(ApiModel):
    """What the operator reports."""

    phase: Phase | None = None
    """Phase of the job's life cycle."""

    stage: Stage | None = None
    """What a running job is doing."""

    observed_generation: Count | None = None
    """Generation of the job that this status is about."""

    conditions: Annotated[list[Condition], Field(max_length=16), MapList("type")] = []
    """Conditions by type."""

    progress: ProgressStatus | None = None
    """Progress of the training."""

    last_checkpoint: CheckpointStatus | None = None
    """The newest durable checkpoint."""

    best: BestStatus | None = None
    """The best checkpoint so far; of a job that succeeded, the one in `artifacts.export`."""

    counters: Counters | None = None
    """Interruptions of attempts by kind."""

    attempts: Annotated[list[AttemptStatus], Field(max_length=20), MapList("number")] = []
    """The newest attempts."""

    run_seconds: Count = 0
    """Seconds that attempts which have ended ran with all their ranks."""

    artifacts: Artifacts | None = None
    """Where the results are."""

    start_time: Time | None = None
    """When the first attempt started."""

    completion_time: Time | None = None
    """When the job ended."""
