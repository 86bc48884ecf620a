"""What a diffusion model is trained on: cached latents and the captions drawn for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.torch import load_file
from torch import Tensor

from tinysd.captions import Words, random_caption
from tinysd.dataset import DrawingSet
from tinysd.fitting import Recipe

CAPTION_DROPOUT = 0.1


@dataclass(frozen=True)
class Lesson:
    """Scaled latents (n, 4, 16, 16) with what each picture shows, and how to train on them."""

    latents: Tensor
    words: Sequence[Words]
    recipe: Recipe
    seed: int

    @classmethod
    def load(cls, work: Path, name: str, recipe: Recipe, seed: int) -> "Lesson":
        """A lesson on the cached latents of a set of pictures."""
        latents = load_file(work / f"{name}-latents.safetensors")["latents"]
        return cls(latents, DrawingSet.load(work / f"{name}.npz").words, recipe, seed)

    def draw_batch(self, size: int, rng: np.random.Generator) -> tuple[Tensor, list[str]]:
        """Latents (size, 4, 16, 16) and their captions, one in ten of them dropped (empty)."""
        chosen = rng.integers(len(self.words), size=size)
        captions = [random_caption(self.words[i], rng) for i in chosen]
        dropped = rng.random(size) < CAPTION_DROPOUT
        captions = ["" if no else text for no, text in zip(dropped, captions, strict=True)]
        return self.latents[chosen], captions
