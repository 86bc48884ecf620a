"""Teaches the captioner's vision tower to see, before the language model learns to read it.

An answer's text says too little about a picture: a language loss alone finds colours and places
within minutes, shapes hardly ever. So small readers on the tower's tokens name what a drawing
shows, and another one imitates the feature map of the classifier, which is a convolutional network
and sees shapes after a few hundred steps. The readers are thrown away.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Mistral3ForConditionalGeneration

from tinysd.captioner.lessons import spoil
from tinysd.captioner.model import ROWS, normalized, see
from tinysd.captions import BACKDROPS, COLOURS, KINDS, PATTERNS
from tinysd.classifiers import Classifier
from tinysd.dataset import DrawingSet
from tinysd.fitting import Recipe, as_tensor, fit

NAMES = (KINDS, tuple(COLOURS), PATTERNS, BACKDROPS)
FLAWS = ("text", "watermark", "blurred")
IMITATION = 3.0
"""Weight of the imitation's error."""


@dataclass(frozen=True)
class Course:
    """A part of the training: its recipe, and the share of pictures with flaws."""

    recipe: Recipe
    spoiled: float
    seed: int


COURSES = (
    Course(Recipe(600, 32, 2e-3, average=0.98), spoiled=0, seed=0),
    Course(Recipe(1000, 32, 2e-3, average=0.98, decay_from=0.4), spoiled=0.25, seed=1),
)


def train(
    model: Mistral3ForConditionalGeneration,
    drawings: DrawingSet,
    teacher: Classifier,
    course: Course,
) -> None:
    """Trains tower and projector on drawings."""
    torch.manual_seed(course.seed)
    rng = np.random.default_rng(course.seed)
    named, imitated = _named(drawings), _features(teacher, drawings)
    width = model.config.text_config.hidden_size
    sizes = [len(each) for each in NAMES]
    imitate = nn.Linear(width, imitated.shape[-1])
    read = nn.Linear(width, sum(sizes) + len(FLAWS))

    def loss() -> Tensor:
        chosen = rng.integers(len(named), size=course.recipe.batch)
        pixels = drawings.pixels[chosen]
        flaws = torch.zeros(len(chosen), len(FLAWS))
        for row in np.flatnonzero(rng.random(len(chosen)) < course.spoiled):
            pixels[row], check = spoil(pixels[row], True, rng)
            flaws[row] = torch.tensor([float(getattr(check, flaw)) for flaw in FLAWS])
        tokens = see(model, normalized(pixels)).unflatten(0, (-1, ROWS**2)).float()
        tokens = functional.rms_norm(tokens, (width,))
        *words, checks = read(tokens.mean(dim=1)).split([*sizes, len(FLAWS)], dim=1)
        total = IMITATION * functional.mse_loss(imitate(tokens), imitated[chosen])
        for number, logits in enumerate(words):
            total = total + functional.cross_entropy(logits, named[chosen, number])
        return total + functional.binary_cross_entropy_with_logits(checks, flaws)

    parts = [model.model.vision_tower, model.model.multi_modal_projector, imitate, read]
    fit("captioner, sight", parts, loss, course.recipe)


def _named(drawings: DrawingSet) -> Tensor:
    """Numbers (n, 4) of each drawing's class, colour, pattern and backdrop."""
    rows = [(word.kind, word.colour, word.pattern, word.backdrop) for word in drawings.words]
    return torch.tensor(
        [[names.index(str(each)) for names, each in zip(NAMES, row, strict=True)] for row in rows]
    )


@torch.no_grad()
def _features(teacher: Classifier, drawings: DrawingSet) -> Tensor:
    """The classifier's last feature map as (n, 16, 64), with mean 0 and variance 1."""
    convolutions = teacher.body[:-2]
    starts = range(0, len(drawings.words), 500)
    maps = [convolutions(as_tensor(drawings.pixels[i : i + 500])) for i in starts]
    features = torch.cat(maps).flatten(2).transpose(1, 2)
    mean, deviation = features.mean((0, 1)), features.std((0, 1))
    return ((features - mean) / deviation).contiguous()
