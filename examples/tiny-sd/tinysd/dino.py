"""A small vision model that tells objects apart, in the layout of DINOv2.

It is trained without captions by instance discrimination, which is simpler than the
self-distillation of DINO: the two views of one object, in other poses and on other backdrops, are
each other's match among all the pictures of a batch, half of which show look-alikes.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

from tinysd import clip
from tinysd.dataset import DrawingSet
from tinysd.fitting import Recipe, as_tensor, fit

RECIPE = Recipe(steps=600, batch=48, learning_rate=1e-3, average=0.98, decay_from=0.2)


def build() -> Dinov2Model:
    """An untrained Dinov2Model of 0.5 M parameters."""
    return Dinov2Model(
        Dinov2Config(
            hidden_size=96,
            num_hidden_layers=6,
            num_attention_heads=4,
            mlp_ratio=2,
            image_size=64,
            patch_size=8,
            attn_implementation="eager",
        )
    )


def train(views: DrawingSet, recipe: Recipe = RECIPE, seed: int = 0) -> Dinov2Model:
    """Trains on a view set: pictures 2i and 2i + 1 show one object. A batch counts objects."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = build()
    groups = clip.items_by_look(views.words)

    def loss() -> Tensor:
        items = clip.choose_items(groups, recipe.batch, clip.GROUP, rng)
        pixels, _ = clip.draw_batch(views, items, rng)
        return clip.instance_loss(embed(model, pixels))

    fit("dino", [model], loss, recipe)
    return model


def embed(model: Dinov2Model, images: Tensor) -> Tensor:
    """Unit embeddings (n, 96), the class token's, of pictures (n, 3, 64, 64) in [-1, 1]."""
    states = model(pixel_values=images).last_hidden_state[:, 0]
    return functional.normalize(states.float(), dim=-1)


@torch.no_grad()
def nearest_share(
    model: Dinov2Model, references: Sequence[NDArray[np.uint8]], others: Sequence[NDArray[np.uint8]]
) -> float:
    """Share of ``others[i]`` that are most like the pictures ``references[i]``, by mean cosine."""
    sets = [embed(model, as_tensor(pictures)) for pictures in references]
    right: list[bool] = []
    for number, pictures in enumerate(others):
        embedded = embed(model, as_tensor(pictures))
        likeness = torch.stack([(embedded @ each.T).mean(dim=1) for each in sets])
        right += (likeness.argmax(dim=0) == number).tolist()
    return float(np.mean(right))


def export(model: Dinov2Model, folder: Path) -> None:
    """Saves the model in half precision with its image processor."""
    model.half().save_pretrained(folder, safe_serialization=True)
    BitImageProcessor(
        size={"shortest_edge": 64},
        crop_size={"height": 64, "width": 64},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    ).save_pretrained(folder)
