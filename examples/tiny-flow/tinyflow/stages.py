"""The stages of the training, each reading and writing files in one work folder."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, ZImageTransformer2DModel
from safetensors.torch import save_file
from transformers import Qwen2Tokenizer, Qwen3Model

from tinyflow import diffusion, names
from tinyflow.text import train_tokenizer
from tinysd import autoencoder, stages
from tinysd.captions import random_caption
from tinysd.dataset import LOOSE, STEADY, DrawingSet, draw_set
from tinysd.fitting import Recipe
from tinysd.lessons import Lesson

VAE = Path(__file__).resolve().parents[2] / "tiny-sd" / "model" / "vae"
LOOSE_PICTURES, STEADY_PICTURES = 8_000, 10_000
LESSONS = {
    "loose": Recipe(
        steps=500, batch=32, learning_rate=2e-3, average=0.98, warm_up=50, decay_from=0.9
    ),
    "steady": Recipe(
        steps=2_000, batch=32, learning_rate=2e-3, average=0.998, warm_up=50, decay_from=0.3
    ),
}


def draw(work: Path) -> None:
    """Draws the first of the pictures that tiny-sd was trained on."""
    draw_set(stages.LOOSE_SEED, LOOSE_PICTURES, LOOSE).save(work / "loose.npz")
    draw_set(stages.STEADY_SEED, STEADY_PICTURES, STEADY).save(work / "steady.npz")


def tokenize(work: Path) -> None:
    """Trains the tokenizer on captions of the loose pictures."""
    rng = np.random.default_rng(0)
    words = DrawingSet.load(work / "loose.npz").words
    train_tokenizer((random_caption(word, rng) for word in words), work / "tokenizer")


def cache(work: Path) -> None:
    """Encodes the pictures with tiny-sd's autoencoder: scaled latents (n, 4, 16, 16)."""
    vae = load_autoencoder()
    for name in LESSONS:
        latents = autoencoder.encode(vae, DrawingSet.load(work / f"{name}.npz").pixels)
        latents *= vae.config.scaling_factor
        save_file({"latents": latents}, work / f"{name}-latents.safetensors")


def load_autoencoder() -> AutoencoderKL:
    """tiny-sd's, with a shift of latents, of which Z-Image's pipeline demands a number."""
    vae = AutoencoderKL.from_pretrained(VAE, dtype=torch.float32)
    vae.register_to_config(shift_factor=0.0)
    return vae


def diffuse(work: Path) -> None:
    """Trains the text encoder and the transformer on loose pictures, then on steady ones."""
    lessons = [
        Lesson.load(work, name, recipe, seed) for seed, (name, recipe) in enumerate(LESSONS.items())
    ]
    diffusion.train(lessons, Qwen2Tokenizer.from_pretrained(work / "tokenizer"), work)


def name(work: Path) -> None:
    """Teaches the text encoder made-up names of the looks that it can describe."""
    tokenizer = Qwen2Tokenizer.from_pretrained(work / "tokenizer")
    transformer = ZImageTransformer2DModel.from_pretrained(work / "transformer")
    encoder = Qwen3Model.from_pretrained(work / "text_encoder", dtype=torch.float32)
    names.teach(encoder, transformer.cap_embedder.float(), tokenizer)
    encoder.save_pretrained(work / "named_text_encoder")


def export(work: Path, folder: Path) -> None:
    """Writes the model's pipeline into ``folder``."""
    shutil.rmtree(folder, ignore_errors=True)
    diffusion.export(
        load_autoencoder(),
        Qwen3Model.from_pretrained(work / "named_text_encoder"),
        Qwen2Tokenizer.from_pretrained(work / "tokenizer"),
        ZImageTransformer2DModel.from_pretrained(work / "transformer"),
        folder,
    )


STAGES: dict[str, Callable[[Path], None]] = {
    "draw": draw,
    "tokenize": tokenize,
    "cache": cache,
    "diffuse": diffuse,
    "name": name,
}
