"""Scores a trained tiny-sd: fidelity to the prompt, and CLIP's agreement."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler, StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional
from transformers import CLIPModel, CLIPTokenizer, Dinov2Model

from tinysd import classifiers, clip, dino
from tinysd.captions import BACKDROPS, COLOURS, KINDS, Words, caption
from tinysd.dataset import SIZE, DrawingSet, draw_object
from tinysd.fitting import as_tensor
from tinysd.text import tokenize

Pixels = NDArray[np.uint8]
STEPS, GUIDANCE, BATCH = 20, 4.0, 40


@dataclass(frozen=True)
class Models:
    """The models to evaluate, and those that evaluate them."""

    pipeline: DiffusionPipeline
    clip: CLIPModel
    tokenizer: CLIPTokenizer
    classifier: classifiers.Classifier
    guidance: float = GUIDANCE


def load_models(model: Path, clip_folder: Path, classifier: Path) -> Models:
    """Loads everything in single precision, DPM-Solver++ as the sampler."""
    pipeline = StableDiffusionPipeline.from_pretrained(model, dtype=torch.float32)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    return with_judges(pipeline, clip_folder, classifier, GUIDANCE)


def with_judges(
    pipeline: DiffusionPipeline, clip_folder: Path, classifier: Path, guidance: float
) -> Models:
    """The models that evaluate a pipeline beside it."""
    pipeline.set_progress_bar_config(disable=True)
    scorer = CLIPModel.from_pretrained(clip_folder, dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(clip_folder)
    return Models(pipeline, scorer, tokenizer, classifiers.load(classifier), guidance)


def sample(
    pipeline: DiffusionPipeline,
    prompts: Sequence[str],
    seed: int = 0,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
) -> Pixels:
    """One picture for each prompt, (n, 64, 64, 3); picture i depends on ``seed`` + i alone."""
    pictures: list[Pixels] = []
    for start in range(0, len(prompts), BATCH):
        part = list(prompts[start : start + BATCH])
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(part))]
        result = pipeline(
            part,
            height=SIZE,
            width=SIZE,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generators,
            output_type="np",
        )
        pictures.append(np.asarray((result.images * 255).round(), dtype=np.uint8))
    return np.concatenate(pictures)


def every_look() -> Iterator[Words]:
    """Three prompts for every class and colour: no backdrop, a plain one and a scene."""
    rng = np.random.default_rng(5)
    for kind in KINDS:
        for colour in COLOURS:
            fitting = [name for name in BACKDROPS if name != colour]
            plain, scene = fitting[rng.integers(4)], BACKDROPS[-1 - rng.integers(5)]
            for backdrop in (None, plain, scene):
                yield Words(kind, colour, backdrop=backdrop)


def prompt_scores(models: Models) -> dict[str, float]:
    """Shares of 240 sampled pictures recognised as the class and the colour of their prompt."""
    words = list(every_look())
    prompts = [caption(word) for word in words]
    pictures = sample(models.pipeline, prompts, guidance=models.guidance)
    kinds, colours = classifiers.recognise(models.classifier, pictures)
    return {
        "images": len(words),
        "class": _share(kinds, [word.kind for word in words]),
        "colour": _share(colours, [str(word.colour) for word in words]),
    }


def classifier_scores(models: Models, held_out: DrawingSet) -> dict[str, float]:
    """The classifier's own accuracy on drawings that it never saw."""
    kinds, colours = classifiers.recognise(models.classifier, held_out.pixels)
    return {
        "images": len(kinds),
        "class": _share(kinds, [word.kind for word in held_out.words]),
        "colour": _share(colours, [str(word.colour) for word in held_out.words]),
    }


def variety_scores(models: Models, count: int = 24) -> dict[str, float]:
    """How different the pictures of "a photo of a mug" are from one another."""
    pictures = sample(models.pipeline, ["a photo of a mug"] * count, 900, STEPS, models.guidance)
    colours = Counter(classifiers.recognise(models.classifier, pictures)[1])
    similarity = _mean_off_diagonal(embed(models.clip, pictures))
    return {
        "images": count,
        "colours": len(colours),
        "most-common-colour": max(colours.values()) / count,
        "clip-similarity": similarity,
    }


def clip_scores(models: Models, views: DrawingSet) -> dict[str, float]:
    """Mean cosines between pictures of one object, of look-alikes, of one class and of any two.

    ``views`` is a view set that CLIP was not trained on; "same-object-first" is the share of
    pictures whose nearest neighbour in the whole set is the other picture of the same object.
    """
    embedded = embed(models.clip, views.pixels)
    similarity = (embedded @ embedded.T).numpy()
    items = np.arange(len(views.words)) // 2
    kinds = np.array([word.kind for word in views.words])
    looks = np.array([f"{word.kind} {word.colour}" for word in views.words])
    other = items[:, None] != items[None]
    same_look = (looks[:, None] == looks[None]) & other
    same_kind = (kinds[:, None] == kinds[None]) & other
    nearest = np.where(np.eye(len(items), dtype=bool), -1, similarity).argmax(axis=1)
    return {
        "same-object": float(similarity[np.arange(len(items)), np.arange(len(items)) ^ 1].mean()),
        "same-class-and-colour": float(similarity[same_look].mean()),
        "same-class": float(similarity[same_kind].mean()),
        "any-two": float(similarity[other].mean()),
        "same-object-first": float((items[nearest] == items).mean()),
    }


def clip_text_scores(models: Models, held_out: DrawingSet) -> dict[str, float]:
    """Zero-shot accuracy: the nearest of "a photo of a <colour> <class>" for held-out drawings."""
    looks = [(kind, colour) for kind in KINDS for colour in COLOURS]
    prompts = [caption(Words(kind, colour)) for kind, colour in looks]
    with torch.no_grad():
        texts = functional.normalize(
            clip.text_features(models.clip, tokenize(models.tokenizer, prompts)), dim=-1
        )
    best = (embed(models.clip, held_out.pixels) @ texts.T).argmax(dim=1)
    return {
        "class": _share([looks[i][0] for i in best], [word.kind for word in held_out.words]),
        "colour": _share(
            [looks[i][1] for i in best], [str(word.colour) for word in held_out.words]
        ),
    }


def subject_scores(models: Models, folder: Path) -> dict[str, dict[str, float]]:
    """Cosines to each subject's held-out pictures: of its own pictures and of the base model's."""
    scores: dict[str, dict[str, float]] = {}
    for subject in sorted(path for path in folder.iterdir() if path.is_dir()):
        noun = subject.name.split("-")[-1]
        training = embed(models.clip, load_pictures(subject))
        held_out = embed(models.clip, load_pictures(subject / "held-out"))
        prompts = [f"a photo of a {noun}"] * 16
        base = embed(models.clip, sample(models.pipeline, prompts, 50, STEPS, models.guidance))
        scores[subject.name] = {
            "real-to-real": float((training @ held_out.T).mean()),
            "base-to-real": float((base @ held_out.T).mean()),
        }
    return scores


def dino_scores(model: Dinov2Model, folder: Path, seed: int = 9) -> dict[str, float]:
    """Shares of held-out pictures whose nearest set of reference pictures is their own object's.

    Of the subjects; and of 60 random decorated objects with five reference pictures each, in
    groups of five objects and all together.
    """
    subjects = sorted(path for path in folder.iterdir() if path.is_dir())
    objects = [draw_object(seed, index, 8) for index in range(60)]
    references, held_out = [each[:5] for each in objects], [each[5:] for each in objects]
    groups = [slice(start, start + 5) for start in range(0, len(objects), 5)]
    return {
        "subjects": dino.nearest_share(
            model,
            [load_pictures(subject) for subject in subjects],
            [load_pictures(subject / "held-out") for subject in subjects],
        ),
        "one-of-five-objects": float(
            np.mean([dino.nearest_share(model, references[g], held_out[g]) for g in groups])
        ),
        "one-of-sixty-objects": dino.nearest_share(model, references, held_out),
    }


@torch.no_grad()
def embed(model: CLIPModel, pictures: Pixels) -> Tensor:
    """Unit CLIP embeddings of pictures (n, 64, 64, 3)."""
    parts = [
        clip.image_features(model, as_tensor(part))
        for part in np.split(pictures, range(250, len(pictures), 250))
    ]
    return functional.normalize(torch.cat(parts), dim=-1)


def load_pictures(folder: Path, size: int = 64) -> Pixels:
    """All pictures of a folder, upright, centre-cropped and scaled to (n, size, size, 3)."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".jpg", ".png"))
    return np.stack([_load_picture(path, size) for path in paths])


def _load_picture(path: Path, size: int) -> Pixels:
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    return np.asarray(ImageOps.fit(upright, (size, size), Image.Resampling.LANCZOS))


def sample_sheet(models: Models) -> Image.Image:
    """One picture of every class in every colour, a row for each class."""
    prompts = [caption(Words(kind, colour)) for kind in KINDS for colour in COLOURS]
    pictures = sample(models.pipeline, prompts, 7000, STEPS, models.guidance)
    return grid(pictures, columns=len(COLOURS))


def grid(pictures: Pixels, columns: int, zoom: int = 1) -> Image.Image:
    """Pictures side by side, ``columns`` in a row."""
    rows = [
        np.concatenate(list(pictures[i : i + columns]), axis=1)
        for i in range(0, len(pictures), columns)
    ]
    image = Image.fromarray(np.concatenate(rows))
    return image.resize((image.width * zoom, image.height * zoom), Image.Resampling.LANCZOS)


def _share(seen: Sequence[str], wanted: Sequence[str]) -> float:
    return float(np.mean([a == b for a, b in zip(seen, wanted, strict=True)]))


def _mean_off_diagonal(embedded: Tensor) -> float:
    similarity = embedded @ embedded.T
    return float(
        np.mean([float(similarity[i, j]) for i, j in combinations(range(len(embedded)), 2)])
    )
