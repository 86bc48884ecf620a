"""The stages of the training, each reading and writing files in one work folder."""

import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

from tinysd import autoencoder, classifiers, clip, diffusion, dino
from tinysd.captioner.model import export as export_captioner
from tinysd.captioner.training import train as train_captioner
from tinysd.captions import random_caption
from tinysd.dataset import LOOSE, STEADY, DrawingSet, draw_set, draw_view_set
from tinysd.lessons import Lesson
from tinysd.text import train_tokenizer

LOOSE_SEED, LOOSE_PICTURES = 1, 32_000
STEADY_SEED, STEADY_PICTURES = 6, 16_000
VIEWS_SEED, ITEMS = 2, 12_000
AUTOENCODER_PICTURES = 12_000


def draw(work: Path) -> None:
    """Draws the data sets: steady pictures for the diffusion model, loose ones for the rest."""
    draw_view_set(VIEWS_SEED, ITEMS).save(work / "views.npz")
    draw_set(LOOSE_SEED, LOOSE_PICTURES, LOOSE).save(work / "loose.npz")
    draw_set(STEADY_SEED, STEADY_PICTURES, STEADY).save(work / "steady.npz")


def tokenize(work: Path) -> None:
    """Trains the tokenizer on captions of the views."""
    rng = np.random.default_rng(0)
    words = DrawingSet.load(work / "views.npz").words
    train_tokenizer((random_caption(word, rng) for word in words), work / "tokenizer")


def encode(work: Path) -> None:
    """Trains the autoencoder, on plain and on decorated objects."""
    views = DrawingSet.load(work / "views.npz").pixels
    pictures = DrawingSet.load(work / "loose.npz").pixels[:AUTOENCODER_PICTURES]
    autoencoder.train(np.concatenate([views, pictures])).save_pretrained(work / "vae")


def classify(work: Path) -> None:
    """Trains the classifier."""
    model = classifiers.train(DrawingSet.load(work / "loose.npz"))
    classifiers.save(model, work / "classifier.safetensors")


def contrast(work: Path) -> None:
    """Trains CLIP."""
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    model = clip.train(DrawingSet.load(work / "views.npz"), tokenizer)
    clip.export(model, tokenizer, work / "clip")


def discriminate(work: Path) -> None:
    """Trains DINO's stand-in."""
    dino.export(dino.train(DrawingSet.load(work / "views.npz")), work / "dino")


def describe(work: Path) -> None:
    """Trains the vision-language model, which learns to see from the classifier."""
    model, tokenizer = train_captioner(
        DrawingSet.load(work / "views.npz"), classifiers.load(work / "classifier.safetensors")
    )
    export_captioner(model, tokenizer, work / "captioner")


def cache(work: Path) -> None:
    """Encodes the pictures: scaled latents (n, 4, 16, 16)."""
    vae = AutoencoderKL.from_pretrained(work / "vae")
    for name in ("loose", "steady"):
        latents = autoencoder.encode(vae, DrawingSet.load(work / f"{name}.npz").pixels)
        latents *= vae.config.scaling_factor
        save_file({"latents": latents}, work / f"{name}-latents.safetensors")


def diffuse(work: Path) -> None:
    """Trains the text encoder and the UNet on loose pictures, then on steady ones."""
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    lessons = [
        Lesson.load(work, "loose", diffusion.LOOSE, seed=0),
        Lesson.load(work, "steady", diffusion.STEADY, seed=100),
    ]
    diffusion.train(lessons, tokenizer, work)


def export(work: Path, folder: Path) -> None:
    """Copies what all stages trained into ``folder``.

    Raises:
        StageOrderError: A stage has not been run.
    """
    _check_order("export", work, needs=STAGES)
    diffusion.export(
        AutoencoderKL.from_pretrained(work / "vae"),
        CLIPTextModel.from_pretrained(work / "text_encoder"),
        CLIPTokenizer.from_pretrained(work / "tokenizer"),
        UNet2DConditionModel.from_pretrained(work / "unet"),
        folder / "model",
    )
    for name in ("clip", "dino", "captioner", "classifier.safetensors"):
        _copy(work / name, folder / name)


NEEDS = {
    "tokenize": ("draw",),
    "encode": ("draw",),
    "classify": ("draw",),
    "contrast": ("draw", "tokenize"),
    "dino": ("draw",),
    "caption": ("draw", "classify"),
    "cache": ("draw", "encode"),
    "diffuse": ("draw", "tokenize", "cache"),
}
"""Stages whose results a stage reads."""
STAGES: dict[str, Callable[[Path], None]] = {
    "draw": draw,
    "tokenize": tokenize,
    "encode": encode,
    "classify": classify,
    "contrast": contrast,
    "dino": discriminate,
    "caption": describe,
    "cache": cache,
    "diffuse": diffuse,
}


class StageOrderError(Exception):
    """A stage reads the results of one that has not been run."""


def run(stage: str, work: Path) -> None:
    """Runs one stage and notes its wall and CPU seconds in ``timings-<stage>.json``.

    Raises:
        StageOrderError: It needs another one, which has not been run.
    """
    work.mkdir(parents=True, exist_ok=True)
    _check_order(stage, work, NEEDS.get(stage, ()))
    wall, cpu = time.perf_counter(), _cpu_seconds()
    STAGES[stage](work)
    spent = {
        "wall-seconds": round(time.perf_counter() - wall),
        "cpu-seconds": round(_cpu_seconds() - cpu),
    }
    _timings(work, stage).write_text(json.dumps(spent) + "\n")


def _check_order(stage: str, work: Path, needs: Iterable[str]) -> None:
    if missing := [need for need in needs if not _timings(work, need).exists()]:
        raise StageOrderError(f"{stage}: run --stage {' '.join(missing)} first; {work} lacks it")


def _timings(work: Path, stage: str) -> Path:
    return work / f"timings-{stage}.json"


def _cpu_seconds() -> float:
    """CPU time of this process and of those that it has waited for."""
    return sum(os.times()[:4])


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        for path in source.iterdir():
            _copy(path, target / path.name)
    else:
        target.write_bytes(source.read_bytes())
