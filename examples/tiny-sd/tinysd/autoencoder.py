"""The autoencoder: 64 px pictures to and from latents of shape (4, 16, 16)."""

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from tinysd.fitting import Recipe, as_tensor, fit, turn_colours

KL_WEIGHT = 1e-4
EDGE_WEIGHT = 1.0
SHAPES_FIRST = Recipe(steps=4500, batch=8, learning_rate=1e-3, average=0.998)
THEN_COLOURS = Recipe(steps=2500, batch=8, learning_rate=8e-4, average=0.998, decay_from=0.1)
TURNED = 0.6


def build() -> AutoencoderKL:
    """An untrained AutoencoderKL of 0.9 M parameters; no attention, so it is fast on a CPU."""
    return AutoencoderKL(
        block_out_channels=(32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )


def train(pixels: NDArray[np.uint8], seed: int = 0) -> AutoencoderKL:
    """Trains on pictures (n, 64, 64, 3), first as they are, then most of them in other colours.

    Sets the scaling factor that gives latents unit variance.
    """
    torch.manual_seed(seed)
    vae = build()
    _fit(vae, pixels, SHAPES_FIRST, 0.0, seed)
    _fit(vae, pixels, THEN_COLOURS, TURNED, seed + 1)
    vae.register_to_config(scaling_factor=round(float(1 / encode(vae, pixels[:2000]).std()), 4))
    return vae


def _fit(
    vae: AutoencoderKL, pixels: NDArray[np.uint8], recipe: Recipe, turned: float, seed: int
) -> None:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    split = round(recipe.batch * turned)

    def loss() -> Tensor:
        images = as_tensor(pixels[rng.integers(len(pixels), size=recipe.batch)])
        images = torch.cat([turn_colours(images[:split], rng), images[split:]])
        posterior = vae.encode(images).latent_dist
        decoded = vae.decode(posterior.sample()).sample.float()
        kl = _kl(posterior.mean, posterior.logvar)
        return reconstruction_loss(decoded, images) + KL_WEIGHT * kl

    fit("autoencoder", [vae], loss, recipe)


def reconstruction_loss(decoded: Tensor, images: Tensor) -> Tensor:
    """L1 on the pixels and on their differences to the right and below, which keeps edges sharp."""
    error = decoded - images
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.abs().mean() + EDGE_WEIGHT * edges


def _kl(mean: Tensor, logvar: Tensor) -> Tensor:
    mean, logvar = mean.float(), logvar.float()
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: NDArray[np.uint8], batch: int = 64) -> Tensor:
    """Unscaled latent means of pictures, (n, 4, 16, 16)."""
    with torch.autocast("cpu", torch.bfloat16):
        parts = [
            vae.encode(as_tensor(pixels[i : i + batch])).latent_dist.mode().float()
            for i in range(0, len(pixels), batch)
        ]
    return torch.cat(parts).contiguous()


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, pixels: NDArray[np.uint8]) -> Tensor:
    """Pictures through the autoencoder and back, (n, 3, h, w) in [-1, 1]."""
    images = as_tensor(pixels)
    decoded: Tensor = vae.decode(vae.encode(images).latent_dist.mode()).sample
    return decoded
