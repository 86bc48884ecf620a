"""The sections of a job's spec."""

from typing import Annotated

from pydantic import Field

from dreambooth_api.models.captioning import Captioning
from dreambooth_api.models.model import Model
from dreambooth_api.models.pods.runtime import Runtime
from dreambooth_api.models.prior import Prior
from dreambooth_api.models.results.evaluation import Evaluation
from dreambooth_api.models.results.export import Export
from dreambooth_api.models.results.tracking import Tracking
from dreambooth_api.models.storage import Checkpoints, ResumeFrom, Samples, Storage
from dreambooth_api.models.subject import Subject
from dreambooth_api.models.training import Training
from dreambooth_api.schema.base import ApiModel, StorageUri
from dreambooth_api.schema.map_list import MapList


class Sections(ApiModel):
    """All sections, without the rules between them."""

    model: Model
    """The base model."""

    subjects: Annotated[list[Subject], Field(min_length=1, max_length=16), MapList("identifier")]
    """What to learn."""

    output: StorageUri
    """Where the results go: `<output>/<namespace>/<name>/<uid>/`."""

    prior: Prior = Field(default_factory=Prior)
    """Class-prior preservation."""

    captioning: Captioning | None = None
    """A vision-language model that describes the subjects' images and writes prompts. Required by
    `captions: auto` of a subject, and by `autoPrompts` of `samples` and `prior`."""

    training: Training = Field(default_factory=Training)
    """How to train."""

    checkpoints: Checkpoints = Field(default_factory=Checkpoints)
    """Durable states that a later attempt resumes from."""

    resume_from: ResumeFrom | None = None
    """Go on from another run, for example of a job that failed, or with more steps."""

    samples: Samples = Field(default_factory=Samples)
    """Sample images made before, during and after training."""

    evaluation: Evaluation | None = None
    """Scores of the result."""

    export: Export | None = None
    """Where the result goes besides `output`."""

    tracking: Tracking = Field(default_factory=Tracking)
    """Experiment trackers."""

    storage: Storage = Field(default_factory=Storage)
    """How object storage is reached."""

    runtime: Runtime = Field(default_factory=Runtime)
    """Where and how the pods run."""

    suspend: bool = False
    """Save a checkpoint, stop the pods and give their nodes back; set it to false to go on."""

    @property
    def has_auto(self) -> bool:
        """Whether captions or prompts are written by the model of `captioning`."""
        counts = self.samples.auto_prompts, self.prior.auto_prompts
        return any(counts) or any(subject.has_auto_captions for subject in self.subjects)

    @property
    def learns_tokens(self) -> bool:
        """Whether the embedding of a word is learned."""
        return any(subject.token for subject in self.subjects)

    @property
    def trains_text(self) -> bool:
        """Whether the conditioning of prompts changes while training."""
        return self.training.text_encoder.method != "frozen" or self.learns_tokens

    @property
    def shows_images(self) -> bool:
        """Whether the model of `captioning` sees the subjects' images."""
        checks = self.captioning is not None and self.captioning.photo_check
        return checks or any(subject.has_auto_captions for subject in self.subjects)
