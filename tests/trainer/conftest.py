"""Fixtures that the trainer's tests share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image, ImageDraw
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,"


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion model with random weights in the diffusers layout, for mechanics.

    64 px, VAE factor 4, 16 px latents, 77 tokens, one token per letter; prompts have an effect.
    """
    torch.manual_seed(0)
    tokenizer = _letters_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, projection_dim=16, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16, attention_head_dim=8,
    )  # fmt: skip
    for name, weight in unet.named_parameters():
        if "attn2.to_" in name or name.startswith("conv_out"):
            weight.data.mul_(4)
    vae = AutoencoderKL(
        block_out_channels=(8, 16, 16), norm_num_groups=4, sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
    )  # fmt: skip
    for weight in vae.decoder.conv_out.parameters():
        weight.data.mul_(8)
    folder = tmp_path_factory.mktemp("random-model")
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
            skip_prk_steps=True, steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def _letters_tokenizer() -> CLIPTokenizer:
    units = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    vocabulary = {unit: i for i, unit in enumerate([*units, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


@pytest.fixture
def random_pipeline(random_model: Path) -> Any:
    """The random model, loaded anew."""
    pipeline = StableDiffusionPipeline.from_pretrained(random_model, safety_checker=None)
    for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        module.requires_grad_(False)
    return pipeline


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four images of a subject."""
    folder = tmp_path_factory.mktemp("subject")
    for number in range(4):
        image = Image.new("RGB", (80, 96), (40 * number, 200, 90))
        ImageDraw.Draw(image).ellipse((10, 10 + number * 5, 60, 70), fill=(220, 40, 50 * number))
        image.save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def prior_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by all runs of a module, so that class images are generated once."""
    return tmp_path_factory.mktemp("prior-cache")


MakeJob = Callable[..., dict[str, Any]]


@pytest.fixture
def job(random_model: Path, subject: Path, prior_cache: Path, tmp_path: Path) -> MakeJob:
    """Make jobs on a random model with 8 steps; a section given by name edits its spec."""

    def make(uid: str = "run", **changes: Any) -> dict[str, Any]:
        spec: dict[str, Any] = {
            "model": {"source": str(random_model)},
            "subjects": [{"identifier": "sks", "classNoun": "mug", "images": f"file://{subject}"}],
            "output": f"file://{tmp_path}/output",
            "prior": {
                # With the default weight, a model of random weights learns so fast that what ranks
                # round differently grows past the tolerances of tests within 8 steps.
                "target": "prediction", "emptyPromptFraction": 0.5, "weight": 1.0,
                "count": 6, "steps": 2, "cache": f"file://{prior_cache}",
            },
            "training": {
                "method": "full", "steps": 8, "globalBatch": 4, "resolution": 64,
                "learningRate": 1e-3, "precision": "fp32",
            },
            "checkpoints": {"every": 100},
            "samples": {"steps": 2, "count": 1},
            "runtime": {"gpusPerNode": 0},
        }  # fmt: skip
        for section, change in changes.items():
            spec[section] = (
                {**spec.get(section, {}), **change} if isinstance(change, dict) else change
            )
        return {
            "apiVersion": "dreambooth.dev/v1alpha1",
            "kind": "DreamBoothJob",
            "metadata": {"name": "test", "namespace": "default", "uid": uid},
            "spec": spec,
        }

    return make
