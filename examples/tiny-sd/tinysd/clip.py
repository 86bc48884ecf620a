"""A tiny CLIP that scores how well a picture fits a text, and a picture another picture.

Beside CLIP's loss between pictures and captions it learns from pairs of pictures of one individual
object: they are each other's match among all the pictures of a batch, half of which come from
objects of the same class and colour, so that texture and details have to tell them apart.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    CLIPVisionConfig,
)

from tinysd.captions import Words, random_caption
from tinysd.dataset import DrawingSet
from tinysd.fitting import Recipe, as_tensor, fit, turn_colours
from tinysd.text import Captions, text_config

WIDTH, PROJECTION = 96, 64
RECIPE = Recipe(steps=2200, batch=48, learning_rate=1e-3, average=0.998)
INSTANCE_TEMPERATURE = 0.1
GROUP = 8
TURNED = 0.3


def build(tokenizer: CLIPTokenizer) -> CLIPModel:
    """An untrained CLIPModel of 0.6 M parameters."""
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=5,
        num_attention_heads=4,
        image_size=64,
        patch_size=8,
        projection_dim=PROJECTION,
    )
    text = text_config(tokenizer, width=64, layers=2, projection=PROJECTION)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=PROJECTION))


def train(
    views: DrawingSet, tokenizer: CLIPTokenizer, recipe: Recipe = RECIPE, seed: int = 0
) -> CLIPModel:
    """Trains on a view set: pictures 2i and 2i + 1 show one object. A batch counts objects."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model, captions = build(tokenizer), Captions(tokenizer)
    groups = _items_by_look(views.words)

    def loss() -> Tensor:
        items = _choose_items(groups, recipe.batch, rng)
        pixels, texts = _batch(views, items, rng)
        images = functional.normalize(image_features(model, pixels).float(), dim=-1)
        prompts = functional.normalize(text_features(model, captions.ids(texts)).float(), dim=-1)
        scale = model.logit_scale.exp().clamp(max=100)
        return text_loss(images, prompts, texts, scale) + instance_loss(images)

    fit("clip", [model], loss, recipe)
    return model


def _batch(
    views: DrawingSet, items: NDArray[np.int64], rng: np.random.Generator
) -> tuple[Tensor, list[str]]:
    """Both views of the items and captions of them, (2n, 3, 64, 64) and 2n texts.

    Some items get other colours, the same in both views; their captions name no colour.
    """
    chosen = np.stack([2 * items, 2 * items + 1], axis=1)
    pairs = as_tensor(np.concatenate(views.pixels[chosen].swapaxes(0, 1), axis=1))
    turned = rng.random(len(items)) < TURNED
    pairs[turned] = turn_colours(pairs[turned], rng)
    pixels = torch.stack(pairs.chunk(2, dim=2), dim=1).flatten(0, 1)
    words = [views.words[i] for i in chosen.ravel()]
    colourless = np.repeat(turned, 2)
    words = [
        Words(word.kind, None, word.pattern, None) if hide else word
        for word, hide in zip(words, colourless, strict=True)
    ]
    return pixels, [random_caption(word, rng) for word in words]


def image_features(model: CLIPModel, images: Tensor) -> Tensor:
    """Projected image embeddings (n, PROJECTION) of pictures (n, 3, 64, 64) in [-1, 1]."""
    pooled = model.vision_model(pixel_values=images).pooler_output
    features: Tensor = model.visual_projection(pooled)
    return features


def text_features(model: CLIPModel, ids: Tensor) -> Tensor:
    """Projected text embeddings (n, PROJECTION)."""
    pooled = model.text_model(input_ids=ids).pooler_output
    features: Tensor = model.text_projection(pooled)
    return features


def text_loss(images: Tensor, prompts: Tensor, texts: Sequence[str], scale: Tensor) -> Tensor:
    """CLIP's symmetric loss; equal captions in a batch share the probability."""
    logits = scale * images @ prompts.T
    names = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    numbers = torch.tensor([names[text] for text in texts])
    target = (numbers[:, None] == numbers[None]).float()
    target = target / target.sum(dim=1, keepdim=True)
    return (
        functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
    ) / 2


def instance_loss(images: Tensor) -> Tensor:
    """Picks the other view of the same object among all the views of the batch."""
    logits = images @ images.T / INSTANCE_TEMPERATURE
    logits = logits.masked_fill(torch.eye(len(images), dtype=torch.bool), -1e4)
    return functional.cross_entropy(logits, torch.arange(len(images)) ^ 1)


def _items_by_look(words: Sequence[Words]) -> list[NDArray[np.int64]]:
    """Numbers of the items, grouped by class and colour."""
    looks: dict[tuple[str, str | None], list[int]] = {}
    for item, word in enumerate(words[::2]):
        looks.setdefault((word.kind, word.colour), []).append(item)
    return [np.array(items) for items in looks.values()]


def _choose_items(
    groups: Sequence[NDArray[np.int64]], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Groups of look-alikes: ``GROUP`` objects of one class and colour each."""
    looks = rng.choice(len(groups), size=count // GROUP, replace=False)
    return np.concatenate([rng.choice(groups[look], GROUP, replace=False) for look in looks])


def export(model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Saves the model in half precision with its processor."""
    model.half().save_pretrained(folder, safe_serialization=True)
    processor = CLIPImageProcessor(
        size={"shortest_edge": 64},
        crop_size={"height": 64, "width": 64},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    CLIPProcessor(processor, tokenizer).save_pretrained(folder)
