"""scores.json and scores/step-*.json: written by the trainer, read by everything that shows scores.

Every score is an estimate from a few generated images, so that each has a confidence interval.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, ValidationError, field_validator

from dreambooth_api.contract.message import Message, Step, Uri, text

VERSION: Final = 1
"""What this package writes and reads. A new field or score needs no new version: see `version`."""
MAX_BYTES: Final = 1 << 20
"""Longest file that is read."""
CONFIDENCE: Final = 0.95
"""Share of the resampled values that an interval holds."""
FEWEST_IMAGES: Final = 4
"""Of fewer images, resampled values say nothing: those of pairs of two images are all the same."""

Number = Annotated[float, Field(ge=-1e6, le=1e6)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
Change = Literal["better", "worse", "none", "unclear"]
"""What became of a score; unclear, as there are too few images."""


class ScoreName(StrEnum):
    """The scores of one subject; their values are the keys in the files."""

    SUBJECT_SIMILARITY = "subjectSimilarity"
    SUBJECT_SIMILARITY_CLIP = "subjectSimilarityClip"
    PROMPT_SIMILARITY = "promptSimilarity"
    SUBJECT_DIVERSITY = "subjectDiversity"
    MEMORIZATION = "memorization"
    CLASS_FIDELITY = "classFidelity"
    CLASS_DRIFT = "classDrift"
    CLASS_SIMILARITY = "classSimilarity"
    CLASS_DIVERSITY = "classDiversity"


@dataclass(frozen=True)
class Definition:
    """What a score measures, for people."""

    title: str
    """As the rows of tables and charts are called."""
    abbreviation: str
    """As in papers; empty where they have none."""
    better: Literal["higher", "lower", "real"]
    """Which values are better; `real`: those near the value of real images."""
    meaning: str
    """One sentence, in plain English."""


DEFINITIONS: Final[Mapping[ScoreName, Definition]] = {
    ScoreName.SUBJECT_SIMILARITY: Definition(
        "subject similarity",
        "DINO",
        "higher",
        "How much generated images of the subject look like its real images.",
    ),
    ScoreName.SUBJECT_SIMILARITY_CLIP: Definition(
        "subject similarity, CLIP",
        "CLIP-I",
        "higher",
        "The same as seen by CLIP, which tells classes apart better than subjects.",
    ),
    ScoreName.PROMPT_SIMILARITY: Definition(
        "prompt following",
        "CLIP-T",
        "higher",
        "How well images of the sample prompts fit these prompts; of real images, how well they fit"
        " the class's prompt.",
    ),
    ScoreName.SUBJECT_DIVERSITY: Definition(
        "subject variety",
        "",
        "real",
        "How much generated images of the subject differ from each other.",
    ),
    ScoreName.MEMORIZATION: Definition(
        "nearest training image",
        "",
        "real",
        "How close a generated image comes to its most similar training image; far above the value"
        " of real images, training images are reproduced.",
    ),
    ScoreName.CLASS_FIDELITY: Definition(
        "class fidelity",
        "",
        "higher",
        "How much images of the class in general are still those that the base model makes from the"
        " same seeds: 1, unchanged; 0, as different as images of other seeds.",
    ),
    ScoreName.CLASS_DRIFT: Definition(
        "class drift",
        "KID",
        "lower",
        "How far the distribution of such images has moved from the base model's.",
    ),
    ScoreName.CLASS_SIMILARITY: Definition(
        "class leakage",
        "PRES",
        "lower",
        "How much images of the class in general look like the subject.",
    ),
    ScoreName.CLASS_DIVERSITY: Definition(
        "class variety",
        "DIV",
        "higher",
        "How much images of the class in general differ from each other (distance in the image"
        " encoder's space).",
    ),
}
"""Every score, in the order in which tables show them (Ruiz et al. 2022, sections 4.1 and 4.3)."""


class UnreadableScoresError(ValueError):
    """A file that holds no `Scores`, or of an unknown version; the message says which."""


class Estimate(Message):
    """A mean over generated images, and the interval that resampling them gives."""

    value: Number
    low: Number
    """Lower end of the interval that holds 95 % of the resampled values."""
    high: Number

    @property
    def is_noise(self) -> bool:
        """Whether 0 is inside of the interval: as a difference, there is none."""
        return self.low <= 0 <= self.high


class ScoreValues(Message):
    """One score of one subject. What does not exist, or is not yet known, is None."""

    base: Estimate | None = None
    """Of the base model; its class fidelity is 1. Of the class drift: between halves of its images,
    which is its noise."""
    trained: Estimate | None = None
    """Of the model at the step of the file."""
    real: Estimate | None = None
    """Of real images of the subject, which a perfect model would reach."""
    change: Estimate | None = None
    """`trained` - `base`, image by image from the same seeds: less noisy than their difference."""


class PromptScores(Message):
    """Prompt following of one sample prompt."""

    prompt: text(512)  # type: ignore[valid-type]
    values: ScoreValues


class Counts(Message):
    """Numbers of images behind the scores of a subject."""

    subject: Count
    """Generated from the instance prompt."""
    class_images: Count = Field(alias="class")
    """Generated from the class prompt."""
    per_prompt: Count
    """Generated from each sample prompt."""
    references: Count
    """Real images that generated ones are compared with."""
    training: Count
    """Training images."""


class SubjectScores(Message):
    """The scores of one subject."""

    identifier: text(32)  # type: ignore[valid-type]
    class_noun: text(64)  # type: ignore[valid-type]
    counts: Counts
    scores: dict[ScoreName, ScoreValues]
    prompts: Annotated[list[PromptScores], Field(max_length=64)] = []
    """Prompt following by sample prompt."""

    @field_validator("scores", mode="before")
    @classmethod
    def _ignore_unknown(cls, scores: Any) -> Any:
        # As unknown fields are ignored: a newer trainer may know more scores.
        if not isinstance(scores, dict):
            return scores
        return {name: value for name, value in scores.items() if name in set(ScoreName)}

    def change(self, name: ScoreName) -> Change | None:
        """Whether training has improved a score; None where it is not known for both models."""
        values = self.scores.get(name, ScoreValues())
        if values.base is None or values.trained is None:
            return None
        if min(self.counts.subject, self.counts.class_images) < FEWEST_IMAGES:
            return "unclear"
        change = values.change or difference(values.trained, values.base)
        return classify(name, change, values)


class Encoder(Message):
    """A model that turned images or texts into vectors."""

    name: text(64)  # type: ignore[valid-type]
    """Its kind: `DINOv2`."""
    source: Uri
    """As the job names it."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of its configuration and weights. Scores of different encoders cannot be compared."""


class Encoders(Message):
    """The models behind the scores."""

    image: Encoder
    """Similarity between images, their variety, class fidelity and class drift (DINO)."""
    text: Encoder
    """Similarity between images and prompts, and CLIP-I (CLIP, SigLIP)."""


class Selection(Message):
    """What the exported model was chosen by (spec.evaluation.select)."""

    score: Annotated[float, Field(ge=0, le=1e100)]
    """Product of the scores, each raised to its weight."""
    min_class_fidelity: Annotated[float, Field(ge=-1, le=1)] | None = None
    """The limit of the class fidelity; None: there is none."""


class Scores(Message):
    """The scores of all subjects at one step."""

    version: Annotated[int, Field(ge=1, le=1_000)] = VERSION
    step: Step
    """Optimizer steps of the model that `trained` scores; 0: there is none yet."""
    exported_step: Step | None = None
    """Optimizer steps of the exported model; None while training goes on."""
    last_step: Step | None = None
    """Optimizer steps when training ended; None while it goes on."""
    validation_loss: Annotated[float, Field(ge=0, le=1e9)] | None = None
    """Of the exported model, on images that were not trained on; None without any."""
    selection: Selection | None = None
    """Of the exported model; None while training goes on."""
    encoders: Encoders
    subjects: Annotated[list[SubjectScores], Field(min_length=1, max_length=16)]

    def encode(self) -> bytes:
        """JSON, without what does not exist."""
        return self.model_dump_json(exclude_none=True, indent=1).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read what `encode` wrote; raises `UnreadableScoresError`."""
        if len(data) > MAX_BYTES:
            raise UnreadableScoresError(f"{len(data)} bytes are over the limit of {MAX_BYTES}")
        try:
            # First, as a file of another version may lack fields of this one.
            version = _Versioned.model_validate_json(data).version
            if version != VERSION:
                raise UnreadableScoresError(
                    f"the scores have version {version} of their format, this program reads"
                    f" {VERSION}; use programs of one release"
                )
            return cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "the file"
            raise UnreadableScoresError(f"{field}: {first['msg']}") from error


class _Versioned(Message):
    """What a file of any version has."""

    version: Annotated[int, Field(ge=1, le=1_000)]


def difference(left: Estimate, right: Estimate) -> Estimate:
    """`left` - `right` of two independent estimates, such as scores of two runs."""
    value = left.value - right.value
    # Independent errors add up in squares.
    down = math.hypot(left.value - left.low, right.high - right.value)
    up = math.hypot(left.high - left.value, right.value - right.low)
    return Estimate(value=value, low=value - down, high=value + up)


def classify(name: ScoreName, change: Estimate, values: ScoreValues) -> Change:
    """Whether a change is for the better; one inside the noise is none.

    Args:
        name: The score.
        change: From `values.base` to `values.trained`.
        values: Those of the score; `real` counts for scores that should come near to it.
    """
    if change.is_noise:
        return "none"
    better = DEFINITIONS[name].better
    if better == "real":
        base, trained, real = values.base, values.trained, values.real
        if base is None or trained is None or real is None:
            return "none"
        is_better = abs(trained.value - real.value) < abs(base.value - real.value)
    else:
        is_better = (change.value > 0) == (better == "higher")
    return "better" if is_better else "worse"
