"""The answer of rank 0 to GET /progress: written by the trainer, read by operator and terminal."""

from typing import Annotated, Self

from pydantic import Field, ValidationError

from dreambooth_api.contract.message import (
    BestCheckpoint,
    Checkpoint,
    HubPush,
    Message,
    Seconds,
    Step,
    Time,
    Uri,
    text,
)
from dreambooth_api.contract.stages import Stage
from dreambooth_api.contract.times import human_duration
from dreambooth_api.contract.version import VERSION, ContractVersion, check_version

MAX_BYTES = 1 << 17
"""Longest answer that is read: twice the longest that can be written."""
# Of a long run only the newest grids fit into an answer; all of them are in storage.
MAX_SAMPLES = 20
MAX_PROBLEM = 1024
MAX_WARNINGS = 10
MAX_WARNING = 512

# Wide bounds, here and below: they refuse only what cannot have been measured.
Loss = Annotated[float, Field(ge=-1e9, le=1e9)]


class UnreadableProgressError(ValueError):
    """An answer that is not a `Progress`, or of an unknown version; the message says which."""


class _Versioned(Message):
    """What an answer of any version has."""

    version: ContractVersion = VERSION


class Images(Message):
    """Images that exist, of those that are needed."""

    done: Step
    total: Step


class Progress(Message):
    """How far an attempt is (status.progress and status.stage of the job)."""

    version: ContractVersion = VERSION
    stage: Stage
    step: Step
    """Optimizer steps done."""
    total_steps: Step
    resumed_from: Step | None = None
    """Step of the checkpoint that the attempt resumed from; None: it began anew, or is not yet
    there."""
    attempt: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    world_size: Annotated[int, Field(ge=1, le=65_536)] = 1
    loss: Loss | None = None
    """Subject plus weighted prior loss of a recent step; None before the first, and where it is not
    finite."""
    subject_loss: Loss | None = None
    prior_loss: Loss | None = None
    learning_rate: Annotated[float, Field(ge=0, le=1e3)] | None = None
    images_per_second: Annotated[float, Field(ge=0, le=1e9)] | None = None
    """Subject and class images over all ranks, smoothed."""
    eta_seconds: Seconds | None = None
    """Training left, without the samples and checkpoints to come."""
    last_checkpoint: Checkpoint | None = None
    best: BestCheckpoint | None = None
    """The best checkpoint of the evaluations so far; None before the first."""
    validation_loss: Loss | None = None
    """Of the newest evaluation; None without held-out images."""
    stopped_early: text(MAX_WARNING) | None = None  # type: ignore[valid-type]
    """Why training ended before `total_steps` (spec.evaluation.earlyStopping)."""
    failed_saves: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Saves of this attempt that failed."""
    save_problem: text(MAX_PROBLEM) | None = None  # type: ignore[valid-type]
    """Why the last save failed; None once a later one has succeeded."""
    save_warning: text(MAX_WARNING) | None = None  # type: ignore[valid-type]
    """What to change as training waits long for saves; None while it does not."""
    warnings: Annotated[list[text(MAX_WARNING)], Field(max_length=MAX_WARNINGS)] = []  # type: ignore[valid-type]
    """What the checks before training found that does not prevent it, such as rejected images."""
    notes: Annotated[list[text(MAX_WARNING)], Field(max_length=MAX_WARNINGS)] = []  # type: ignore[valid-type]
    """What the checks say about the job that is as it should be, such as where it goes on from."""
    captioning: Images | None = None
    """Answers of the vision-language model (spec.captioning): captions, checks and prompts."""
    prior: Images | None = None
    """Class images (spec.prior.count per subject)."""
    protocol: Images | None = None
    """Those of a result that is scored by a protocol, and of its base model."""
    generated: Images | None = None
    """Those of a result that `dreambooth generate` asks for."""
    samples: Annotated[list[Uri], Field(max_length=MAX_SAMPLES)] = []
    """Sample grids of this attempt, the newest last."""
    output: Uri | None = None
    """Folder of the run."""
    export: Uri | None = None
    """The exported model, once it is complete."""
    push: HubPush | None = None
    """What became of the push of the export to a hub; None: none was tried yet."""
    updated_at: Time | None = None

    @property
    def trains_nothing(self) -> bool:
        """Whether it is about images of a result."""
        return self.protocol is not None or self.generated is not None

    @property
    def stage_progress(self) -> tuple[int, int | None]:
        """(done, total) optimizer steps or images of the stage; the total may be unknown."""
        if self.generated is not None:
            return self.generated.done, self.generated.total
        if self.stage == "Preparing":
            return 0, None
        if self.stage == "Captioning":
            return (self.captioning.done, self.captioning.total) if self.captioning else (0, None)
        if self.stage == "GeneratingPrior":
            return (self.prior.done, self.prior.total) if self.prior else (0, None)
        if self.protocol is not None:
            return self.protocol.done, self.protocol.total
        return self.step, self.total_steps

    def figures(self) -> list[str]:
        """The figures of the stage that are known, for people: `step 40/400`, `12m left`."""
        done, total = self.stage_progress
        if total is None:
            return []
        if self.stage == "Captioning":
            return [f"answer {done}/{total}"]
        if self.generated is not None:
            return [f"image {done}/{total}"]
        if self.stage == "GeneratingPrior":
            return [f"class image {done}/{total}"]
        if self.protocol is not None:
            return [f"image {done}/{total}"]
        known = [f"step {done}/{total}"]
        if self.loss is not None:
            known.append(f"loss {self.loss:.4f}")
        if self.best is not None:
            known.append(f"best {self.best.score:.4g} at step {self.best.step}")
        if self.images_per_second is not None:
            known.append(f"{self.images_per_second:.1f} images/s")
        if self.stage == "Training" and self.eta_seconds is not None:
            known.append(f"{human_duration(self.eta_seconds)} left")
        return known

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read an answer; raises `UnreadableProgressError`."""
        try:
            # First, as an answer of another version may lack fields of this one.
            check_version("the trainer", _Versioned.model_validate_json(data).version)
            return cls.model_validate_json(data)
        # ValidationError is a ValueError, too: it has to come before the one of `check_version`.
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "the answer"
            raise UnreadableProgressError(f"{field}: {first['msg']}") from error
        except ValueError as error:
            raise UnreadableProgressError(str(error)) from error
