"""tiny-flow beside the models of tiny-sd that score it."""

from pathlib import Path

import torch
from diffusers import ZImagePipeline

from tinysd import scoring

GUIDANCE = 3.0
"""Counted from 0, as Z-Image's pipeline does: what is 4 for Stable Diffusion."""


def load_models(model: Path, tiny_sd: Path) -> scoring.Models:
    """Loads the pipeline in single precision with the scoring models of the folder ``tiny_sd``."""
    pipeline = ZImagePipeline.from_pretrained(model, dtype=torch.float32)
    return scoring.with_judges(
        pipeline, tiny_sd / "clip", tiny_sd / "classifier.safetensors", GUIDANCE
    )
