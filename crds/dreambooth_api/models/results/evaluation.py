"""Scores of the result, and what is decided by them."""

from typing import Annotated, Literal

from pydantic import Field

from dreambooth_api.schema.base import ApiModel, ModelSource, Steps
from dreambooth_api.schema.map_list import MapList
from dreambooth_api.schema.rules import rule

SelectableScore = Literal[
    "subjectSimilarity",
    "subjectSimilarityClip",
    "promptSimilarity",
    "classFidelity",
    "classDiversity",
    "validationLoss",
]
"""Scores that a checkpoint can be chosen by."""


class ScoreWeight(ApiModel):
    """A score, and how much it counts."""

    name: SelectableScore
    """The score, as in scores.json. `validationLoss` needs images that are not trained on
    (`evaluation.holdOut`, or `evaluationImages` of a subject)."""

    weight: Annotated[float, Field(gt=0, le=10)]
    """Its exponent in the product of all scores; 1 is the usual one."""


class Select(ApiModel):
    """How the best checkpoint is chosen."""

    scores: Annotated[list[ScoreWeight], Field(max_length=6), MapList("name")] = []
    """The best checkpoint has the largest product of these scores, each raised to its weight and
    averaged over the subjects; a loss divides. Default: `subjectSimilarity` and `promptSimilarity`,
    both with weight 1."""

    min_class_fidelity: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Checkpoints whose class fidelity is lower, for any subject, are passed over. 1: images of
    the class are those of the base model; 0: they differ as much as images of other seeds.
    Default: 0.4, and without prior preservation (`spec.prior`) no limit."""


class EarlyStopping(ApiModel):
    """When training ends before its last step."""

    patience: Annotated[int, Field(ge=1, le=1000)]
    """Number of evaluations in a row without a better checkpoint, after which training ends."""

    min_delta: Annotated[float, Field(ge=0, le=1)] = 0.0
    """A checkpoint counts as better when its score is higher by more than this."""


PRESETS = {
    "paper": ("hf://facebook/dino-vits16", "hf://openai/clip-vit-base-patch32"),
    "modern": ("hf://facebook/dinov2-base", "hf://google/siglip2-base-patch16-224"),
}
"""The encoders of images, and of images and prompts, by the name of the preset."""


class EncoderModels(ApiModel):
    """The models that scores are computed with, in the transformers layout."""

    image: ModelSource | None = None
    """Encoder of images: a DINO, DINOv2 or DINOv3 vision transformer (`s3://`, `hf://` or a path).
    CLIP and SigLIP can be used too. Default: the preset's."""

    text: ModelSource | None = None
    """Encoder of images and prompts: CLIP or SigLIP (`s3://`, `hf://` or a path). Default: the
    preset's."""


class Evaluation(ApiModel):
    """Scores of the result.

    Similarity to the subject (DINO, CLIP-I) and to the prompts (CLIP-T), and variety of the class
    (paper, sections 4.1 and 4.3).
    """

    preset: Literal["paper", "modern"] = "paper"
    """Encoders of the scores. `paper`: DINO ViT-S/16 and CLIP ViT-B/32, as in the paper; scores
    can be compared with published ones. `modern`: DINOv2 ViT-B/14 and SigLIP 2 B/16, which see
    finer differences."""

    encoders: EncoderModels = Field(default_factory=EncoderModels)
    """Encoders of your own, in place of the preset's."""

    count: Annotated[int, Field(ge=2, le=1024)] = 16
    """Images generated per score. Fewer than 4 do not tell what training has changed."""

    every: Steps | None = None
    """Optimizer steps between evaluations during training; the best checkpoint is then exported.
    Unset: only before and after training, and the last one is exported."""

    max_time_fraction: Annotated[float, Field(ge=0.001, le=1)] = 0.05
    """Share of the training time that evaluations may take. After each, those that are due too
    early to keep it below this share are left out; 1 leaves out none."""

    select: Select = Field(default_factory=Select)
    """How the best checkpoint is chosen."""

    early_stopping: EarlyStopping | None = None
    """When training ends before its last step. Needs `every`."""

    hold_out: Annotated[int, Field(ge=0, le=100)] = 0
    """Number of images of each subject, the last by name, that are not trained on. The validation
    loss is measured on them, and on the `evaluationImages` of the subjects."""

    @rule(
        "earlyStopping",
        "!has(self.earlyStopping) || has(self.every)",
        "needs evaluations during training; set evaluation.every",
    )
    def _early_stopping_has_evaluations(self) -> bool:
        return self.early_stopping is None or self.every is not None

    @property
    def image_encoder(self) -> str:
        """Source of the encoder of images."""
        return self.encoders.image or PRESETS[self.preset][0]

    @property
    def text_encoder(self) -> str:
        """Source of the encoder of images and prompts."""
        return self.encoders.text or PRESETS[self.preset][1]
