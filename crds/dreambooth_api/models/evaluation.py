"""Scores of the result."""

from typing import Annotated

from pydantic import Field

from dreambooth_api.models.base import ApiModel, ModelSource


class Evaluation(ApiModel):
    """Scores of the result.

    Similarity to the subject (DINO, CLIP-I) and to the prompts (CLIP-T), and variety of the class
    (paper, sections 4.1 and 4.3).
    """

    model: ModelSource
    """A CLIP model (transformers layout) that scores: `s3://`, `hf://` or an absolute path."""

    count: Annotated[int, Field(ge=2, le=1024)] = 16
    """Images generated per score."""
