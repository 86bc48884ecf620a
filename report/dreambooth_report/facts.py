"""What the report shows of a run, typed. Pictures are requests: the page gets them separately."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from dreambooth_api.contract.scores import ScoreName
from dreambooth_api.models.job import DreamBoothJob
from dreambooth_report.pictures import Request


@dataclass(frozen=True)
class SubjectFacts:
    """A subject: its photos, and what the trained model makes of it."""

    identifier: str
    class_noun: str
    photos: Sequence[Request]
    more_photos: int
    """Photos that were trained on and are not shown."""
    captions: Mapping[str, str]
    """Of the photos, by their names, where a vision-language model wrote any."""
    results: Sequence[Request]
    """Samples of the step that the run ended with, of a prompt that names the subject."""


@dataclass(frozen=True)
class Strip:
    """The samples of one prompt at one step, one per seed."""

    step: int
    pictures: Sequence[Request]


@dataclass(frozen=True)
class PromptFacts:
    """The samples of one prompt, by step; the first are those of the base model."""

    prompt: str
    of_class: bool
    """Whether it names no subject, and so shows what became of the class."""
    strips: Sequence[Strip]


@dataclass(frozen=True)
class Curve:
    """One measurement over the steps, in at most some hundred points."""

    steps: Sequence[float]
    smooth: Sequence[float]
    raw: Sequence[float]
    """Means over the steps of a point."""


@dataclass(frozen=True)
class ScorePoint:
    """A score at a step, with its confidence interval where there is one."""

    step: int
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ScoreFacts:
    """One score of one subject over the steps."""

    subject: str
    name: ScoreName
    title: str
    abbreviation: str
    """As in papers; empty where they have none."""
    meaning: str
    points: Sequence[ScorePoint]
    real: float | None = None
    """The same score of real images, which a perfect model would reach."""
    verdict: str = ""
    """Whether training has improved it, in a sentence."""


@dataclass(frozen=True)
class SelectionFacts:
    """How the exported checkpoint was chosen (spec.evaluation.select)."""

    weights: Mapping[str, float]
    """Exponents of the scores whose product is compared."""
    points: Sequence[tuple[int, float]]
    """Steps that were evaluated, and their products."""
    passed_over: Sequence[int]
    """Those whose class fidelity is below the limit."""
    stopped_early: str
    """Why training ended before the job's last step; empty: it did not."""


@dataclass(frozen=True)
class AttemptFacts:
    """One attempt, and how it ended; None where that is not known."""

    number: int
    started: datetime | None
    ended: datetime | None
    ranks: int
    """0: it ended before it began to train."""
    devices: str
    resumed_from: int | None
    end: str
    failed: bool = False


@dataclass(frozen=True)
class RunFacts:
    """One run, as far as it has got."""

    root: str
    """URI of its folder."""
    job: DreamBoothJob
    """As it was trained, with the model's defaults."""
    done: bool
    """Whether the model was exported."""
    steps: int
    """Optimizer steps done."""
    chosen_step: int | None
    """The step whose weights were exported; None before that."""
    best_step: int | None = None
    """The best step so far, until one is chosen; None without evaluations during training."""
    encoders: Sequence[str] = ()
    """Kinds of the models behind the scores."""
    subjects: Sequence[SubjectFacts] = ()
    prompts: Sequence[PromptFacts] = ()
    sample_steps: Sequence[int] = ()
    """Steps whose samples are shown, 0 first."""
    class_images: Mapping[str, Sequence[Request]] = field(default_factory=dict)
    """Images of each class that the model was also trained on (prior preservation)."""
    losses: Mapping[str, Curve] = field(default_factory=dict)
    learning_rate: Curve | None = None
    step_seconds: Curve | None = None
    validation_losses: Sequence[tuple[int, float]] = ()
    """Of images that are not trained on, by step."""
    scores: Sequence[ScoreFacts] = ()
    selection: SelectionFacts | None = None
    """None where there was no choice, or it is yet to be made."""
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()
    attempts: Sequence[AttemptFacts] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    """sha256 by name."""
    license: str = ""
    """Of the base model; empty where it is not known."""
    license_link: str | None = None
    global_batch: int | None = None
    card: str = ""
    """README.md of the exported model; empty before the export."""
    left_out: Sequence[str] = ()
    """What is in the run's folder and not on the page, in sentences."""

    @property
    def marked_step(self) -> int | None:
        """The step that charts mark: the exported one, or the best so far."""
        return self.best_step if self.chosen_step is None else self.chosen_step
