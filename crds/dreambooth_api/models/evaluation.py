"""Scores of the result."""

from typing import Annotated, Literal

from pydantic import Field

from dreambooth_api.models.base import ApiModel, ModelSource

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
    """Images generated per score."""

    @property
    def image_encoder(self) -> str:
        """Source of the encoder of images."""
        return self.encoders.image or PRESETS[self.preset][0]

    @property
    def text_encoder(self) -> str:
        """Source of the encoder of images and prompts."""
        return self.encoders.text or PRESETS[self.preset][1]
