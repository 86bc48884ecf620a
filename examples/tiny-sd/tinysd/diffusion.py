"""The text encoder and the UNet, trained together on cached latents."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import torch
import torch.multiprocessing as mp
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from tinysd.fitting import Recipe, Team, fit
from tinysd.lessons import Lesson
from tinysd.text import Captions, text_config

TEXT_WIDTH = 96
PROCESSES = 2
LOOSE = Recipe(steps=7_500, batch=32, learning_rate=1e-3, average=0.998, warm_up=200)
STEADY = Recipe(
    steps=1_500, batch=32, learning_rate=6e-4, average=0.998, warm_up=50, decay_from=0.2
)


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained CLIP text model of 0.25 M parameters."""
    return CLIPTextModel(text_config(tokenizer, TEXT_WIDTH, layers=2, projection=TEXT_WIDTH))


def build_unet() -> UNet2DConditionModel:
    """An untrained UNet of 3.9 M parameters; it attends to the text at 8 x 8 only."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule, with v-prediction."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def train(lessons: Sequence[Lesson], tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Trains on one lesson after the other; saves ``text_encoder`` and ``unet`` in ``folder``.

    The files are written every thousand steps and at the end of each lesson.
    """
    torch.manual_seed(0)
    text_encoder, unet = build_text_encoder(tokenizer), build_unet()
    for lesson in lessons:
        learn(text_encoder, unet, lesson, tokenizer, folder)
        unet = UNet2DConditionModel.from_pretrained(folder / "unet")
        text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")


def learn(
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
    lesson: Lesson,
    tokenizer: CLIPTokenizer,
    folder: Path,
) -> None:
    """One lesson, in ``PROCESSES`` processes of one thread each, which share every batch.

    That is faster than one process of as many threads.
    """
    size = sum(p.numel() for p in (*text_encoder.parameters(), *unet.parameters()))
    shared = torch.zeros(PROCESSES, size)  # in shared memory as soon as it is sent
    barrier = mp.get_context("spawn").Barrier(PROCESSES)
    mp.spawn(  # type: ignore[attr-defined, no-untyped-call]
        _learn_share,
        (shared, barrier, text_encoder, unet, lesson, Captions(tokenizer), folder),
        PROCESSES,
    )


def _learn_share(
    rank: int,
    shared: Tensor,
    barrier: Barrier,
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
    lesson: Lesson,
    captions: Captions,
    folder: Path,
) -> None:
    """One process's part: the same weights in every process, other pictures and noise."""
    torch.set_num_threads(1)
    torch.manual_seed(lesson.seed + 1 + rank)
    text_encoder, unet = deepcopy(text_encoder).train(), deepcopy(unet).train()
    loss = _loss_of(text_encoder, unet, lesson, captions, lesson.seed + rank)

    def save() -> None:
        text_encoder.save_pretrained(folder / "text_encoder")
        unet.save_pretrained(folder / "unet")

    fit("diffusion", [unet, text_encoder], loss, lesson.recipe, save, Team(rank, shared, barrier))
    if rank == 0:
        save()


def _loss_of(
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
    lesson: Lesson,
    captions: Captions,
    seed: int,
) -> Callable[[], Tensor]:
    """The velocity's mean squared error on a fresh random share of a batch at every call."""
    rng, scheduler = np.random.default_rng(seed), build_scheduler()
    batch = lesson.recipe.batch // PROCESSES

    def loss() -> Tensor:
        clean, texts = lesson.draw_batch(batch, rng)
        ids = captions.ids(texts)
        noise = torch.randn_like(clean)
        timesteps = torch.randint(0, 1000, (batch,))
        noisy = scheduler.add_noise(clean, noise, timesteps)
        predicted = unet(noisy, timesteps, text_encoder(ids).last_hidden_state).sample.float()
        return functional.mse_loss(predicted, scheduler.get_velocity(clean, noise, timesteps))

    return loss


def export(
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
    folder: Path,
) -> None:
    """Saves the parts as a Stable Diffusion pipeline in half precision."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for part in (vae, unet):  # else their configs name the folder that they were loaded from
        part.register_to_config(_name_or_path="")
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
