"""The origin of an exported model."""

import json
from dataclasses import dataclass
from importlib.metadata import version

from dreambooth_api.contract.scores import Scores
from dreambooth_trainer.models.published import INHERITED, License

VERSION = version("dreambooth-trainer")


@dataclass(frozen=True)
class Provenance:
    """The base model, subjects and steps behind a result.

    Written to the metadata of every exported file and to the model card.
    """

    base_model: str
    base_model_sha256: str
    identifiers: tuple[str, ...]
    class_nouns: tuple[str, ...]
    prompt: str
    """Instance prompt of the first subject."""
    step: int
    resolution: int
    """Of the images, in pixels along one side."""
    sample_steps: int
    guidance_scale: float
    """Both are those of the samples."""
    license: License = INHERITED
    """Of the base model's weights."""
    scores: Scores | None = None
    """Of the exported model; on the card alone."""
    merged: tuple[tuple[str, float], ...] = ()
    """Source and scale of each adapter that was merged into the base model."""
    clip_skip: int | None = None
    """As web UIs count."""

    def metadata(self) -> dict[str, str]:
        """As safetensors metadata, which holds strings only."""
        return {
            "format": "pt",
            "dreambooth.version": VERSION,
            "dreambooth.base_model": self.base_model,
            "dreambooth.base_model_sha256": self.base_model_sha256,
            "dreambooth.identifiers": json.dumps(self.identifiers),
            "dreambooth.class_nouns": json.dumps(self.class_nouns),
            "dreambooth.prompt": self.prompt,
            "dreambooth.step": str(self.step),
            "license": self.license.name,
            **({"dreambooth.clip_skip": str(self.clip_skip)} if self.clip_skip else {}),
            **({"dreambooth.merged_adapters": json.dumps(self.merged)} if self.merged else {}),
        }
