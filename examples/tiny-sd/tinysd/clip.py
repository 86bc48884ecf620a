"""A tiny CLIP that scores how well a picture fits a text, and a picture another picture.

Beside CLIP's loss between pictures and captions it learns from pairs of pictures of one individual
object: they are each other's match among all the pictures of a batch, half of which come from
objects of the same class and colour, so that texture and details have to tell them apart.

A second lesson teaches it to read: batches of few looks can be told apart by colour alone, so there
every picture picks its own among a caption of each class and colour.
"""

from collections.abc import Sequence
from itertools import product
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

from tinysd.captions import COLOURS, KINDS, OPENINGS, Words, caption, random_caption
from tinysd.dataset import DrawingSet
from tinysd.fitting import Recipe, as_tensor, fit, turn_colours
from tinysd.text import Captions, text_config

WIDTH, PROJECTION = 96, 64
OBJECTS = Recipe(steps=2200, batch=48, learning_rate=1e-3, average=0.998)
READING = Recipe(steps=1350, batch=48, learning_rate=7e-4, average=0.98, warm_up=30)
INSTANCE_TEMPERATURE = 0.1
GROUP, READING_GROUP = 8, 4
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


def train(views: DrawingSet, tokenizer: CLIPTokenizer) -> CLIPModel:
    """Trains on a view set: pictures 2i and 2i + 1 show one object. A batch counts objects."""
    torch.manual_seed(0)
    model = build(tokenizer)
    learn_objects(model, views, tokenizer)
    learn_to_read(model, views, tokenizer)
    return model


def learn_objects(model: CLIPModel, views: DrawingSet, tokenizer: CLIPTokenizer) -> None:
    """The first lesson: captions and objects."""
    rng, captions = np.random.default_rng(0), Captions(tokenizer)
    groups = items_by_look(views.words)

    def loss() -> Tensor:
        pixels, words = draw_batch(views, choose_items(groups, OBJECTS.batch, GROUP, rng), rng)
        return _loss(model, captions, pixels, words, rng)[0]

    fit("clip", [model], loss, OBJECTS)


def learn_to_read(model: CLIPModel, views: DrawingSet, tokenizer: CLIPTokenizer) -> None:
    """The second lesson: the same, and a loss that names class and colour."""
    rng, captions = np.random.default_rng(1), Captions(tokenizer)
    groups = items_by_look(views.words)

    def loss() -> Tensor:
        items = choose_items(groups, READING.batch, READING_GROUP, rng)
        pixels, words = draw_batch(views, items, rng)
        both, images = _loss(model, captions, pixels, words, rng)
        names = looks(str(rng.choice(OPENINGS)))
        prompts = functional.normalize(
            text_features(model, captions.ids(list(names))).float(), dim=-1
        )
        return both + look_loss(_scale(model) * images @ prompts.T, words, list(names.values()))

    fit("clip reads", [model], loss, READING)


def _loss(
    model: CLIPModel,
    captions: Captions,
    pixels: Tensor,
    words: Sequence[Words],
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """CLIP's loss and that of the objects, and the pictures' unit embeddings."""
    texts = [random_caption(word, rng) for word in words]
    images = functional.normalize(image_features(model, pixels).float(), dim=-1)
    prompts = functional.normalize(text_features(model, captions.ids(texts)).float(), dim=-1)
    return text_loss(images, prompts, texts, _scale(model)) + instance_loss(images), images


def _scale(model: CLIPModel) -> Tensor:
    scale: Tensor = model.logit_scale.exp().clamp(max=100)
    return scale


def draw_batch(
    views: DrawingSet, items: NDArray[np.int64], rng: np.random.Generator
) -> tuple[Tensor, list[Words]]:
    """Both views of the items and their words, (2n, 3, 64, 64) and 2n.

    Some items get other colours, the same in both views; their words name no colour.
    """
    chosen = np.stack([2 * items, 2 * items + 1], axis=1)
    pairs = as_tensor(np.concatenate(views.pixels[chosen].swapaxes(0, 1), axis=1))
    turned = rng.random(len(items)) < TURNED
    pairs[turned] = turn_colours(pairs[turned], rng)
    pixels = torch.stack(pairs.chunk(2, dim=2), dim=1).flatten(0, 1)
    words = [views.words[i] for i in chosen.ravel()]
    colourless = np.repeat(turned, 2)
    return pixels, [
        Words(word.kind, None, word.pattern, None) if hide else word
        for word, hide in zip(words, colourless, strict=True)
    ]


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


def looks(opening: str) -> dict[str, tuple[str, str | None]]:
    """A caption of every class in every colour and in none, with what it names."""
    named = product(KINDS, (*COLOURS, None))
    return {caption(Words(kind, colour), opening): (kind, colour) for kind, colour in named}


def look_loss(
    logits: Tensor, words: Sequence[Words], names: Sequence[tuple[str, str | None]]
) -> Tensor:
    """Picks a picture's class and colour among all captions with a colour, or with none.

    Args:
        logits: Pictures by captions, (n, len(names)).
        words: What the pictures show; without a colour where they are in others than usual.
        names: What the captions name.
    """
    coloured = torch.tensor([colour is not None for _, colour in names])
    known = torch.tensor([word.colour is not None for word in words])
    logits = logits.masked_fill(known[:, None] != coloured[None], -1e4)
    target = torch.tensor([names.index((word.kind, word.colour)) for word in words])
    return functional.cross_entropy(logits, target)


def items_by_look(words: Sequence[Words]) -> list[NDArray[np.int64]]:
    """Numbers of the items, grouped by class and colour."""
    looks: dict[tuple[str, str | None], list[int]] = {}
    for item, word in enumerate(words[::2]):
        looks.setdefault((word.kind, word.colour), []).append(item)
    return [np.array(items) for items in looks.values()]


def choose_items(
    groups: Sequence[NDArray[np.int64]], count: int, size: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Groups of look-alikes: ``size`` objects of one class and colour each."""
    chosen = rng.choice(len(groups), size=count // size, replace=False)
    return np.concatenate([rng.choice(groups[look], size, replace=False) for look in chosen])


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
