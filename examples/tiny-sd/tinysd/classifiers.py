"""A small network that names the class and the colour of the object in a picture."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from tinysd.captions import COLOURS, KINDS
from tinysd.dataset import DrawingSet
from tinysd.fitting import Recipe, as_tensor, fit

RECIPE = Recipe(steps=1500, batch=64, learning_rate=2e-3, average=0.99)


class Classifier(nn.Module):
    """Pictures (n, 3, 64, 64) in [-1, 1] to class logits (n, 10) and colour logits (n, 8)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 64, 64)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [
                nn.Conv2d(before, after, 3, stride=2, padding=1),
                nn.GroupNorm(8, after),
                nn.SiLU(),
            ]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2))
        self.kind = nn.Linear(widths[-1] * 16, len(KINDS))
        self.colour = nn.Linear(widths[-1] * 16, len(COLOURS))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(images)
        return self.kind(features), self.colour(features)


def labels(drawings: DrawingSet) -> tuple[Tensor, Tensor]:
    """Class and colour numbers of the pictures."""
    colours = list(COLOURS)
    kinds = torch.tensor([KINDS.index(word.kind) for word in drawings.words])
    return kinds, torch.tensor([colours.index(str(word.colour)) for word in drawings.words])


def train(drawings: DrawingSet, recipe: Recipe = RECIPE, seed: int = 0) -> Classifier:
    """Trains on drawings, some blurred a little so that soft pictures are judged fairly."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model, (kinds, colours) = Classifier(), labels(drawings)

    def loss() -> Tensor:
        chosen = rng.integers(len(kinds), size=recipe.batch)
        images = _soften(as_tensor(drawings.pixels[chosen]), rng)
        kind, colour = model(images)
        return functional.cross_entropy(kind, kinds[chosen]) + functional.cross_entropy(
            colour, colours[chosen]
        )

    fit("classifier", [model], loss, recipe)
    return model.eval()


def _soften(images: Tensor, rng: np.random.Generator) -> Tensor:
    soft = functional.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    mix = torch.from_numpy(rng.uniform(0, 1, (len(images), 1, 1, 1)) * (rng.random() < 0.5)).float()
    return images.lerp(soft, mix) + 0.03 * torch.randn_like(images)


@torch.no_grad()
def recognise(model: Classifier, pixels: NDArray[np.uint8]) -> tuple[list[str], list[str]]:
    """The class and the colour seen in each picture (n, 64, 64, 3)."""
    kind, colour = model(as_tensor(pixels))
    names = list(COLOURS)
    return [KINDS[i] for i in kind.argmax(1)], [names[i] for i in colour.argmax(1)]


def save(model: Classifier, path: Path) -> None:
    """Writes the weights in half precision."""
    save_file({name: tensor.half() for name, tensor in model.state_dict().items()}, path)


def load(path: Path) -> Classifier:
    """Reads what ``save`` wrote."""
    model = Classifier()
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    return model.eval()
