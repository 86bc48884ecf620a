"""Families whose autoencoder is that of videos: images are videos of one frame."""

from typing import Any

import torch
from torch import Tensor

from dreambooth_trainer.models.bases.packing import PackedFamily


class VideoVaeFamily(PackedFamily):
    """Latents with a mean and a deviation for each channel, and a dimension for frames."""

    def __init__(self, pipeline: Any, model_hash: str) -> None:
        super().__init__(pipeline, model_hash)
        config = self._vae.config
        self._statistics = torch.tensor([config.latents_mean, config.latents_std])
        """Mean and deviation of each channel of the VAE's latents, [2, C]."""

    @property
    def vae_factor(self) -> int:
        """8: every level that the VAE may also shorten videos at halves the resolution."""
        return int(2 ** len(self._vae.config.temperal_downsample))

    @property
    def latent_channels(self) -> int:
        """16 in Qwen-Image."""
        return int(self._vae.config.z_dim)

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Pixels [N, 3, H, W] -> mean and log variance [N, 2C, H/8, W/8], stacked, in fp32."""
        return super().encode_images(pixels.unsqueeze(2)).squeeze(2)

    def scale_latents(self, latents: Tensor) -> Tensor:
        """(latents - mean) / deviation of each channel, [N, C, h, w]."""
        mean, deviation = self._statistics_for(latents)
        scaled: Tensor = (latents - mean) / deviation
        return scaled

    def decode_latents(self, latents: Tensor, width: int, height: int | None = None) -> Tensor:
        """What the pipeline returns for `output_type="latent"` -> pixels [N, 3, H, W]."""
        latents = self.unpack_latents(latents, width, height).to(self._vae.dtype)
        mean, deviation = self._statistics_for(latents)
        video = (latents * deviation + mean).unsqueeze(2)
        pixels: Tensor = self._vae.decode(video, return_dict=False)[0].squeeze(2)
        return pixels

    def _statistics_for(self, latents: Tensor) -> Tensor:
        """Mean and deviation for latents on any device, [2, 1, C, 1, 1]."""
        if self._statistics.device != latents.device:
            # From pinned memory, as the host would wait for any other copy.
            here = self._statistics.pin_memory() if latents.is_cuda else self._statistics
            self._statistics = here.to(latents.device, non_blocking=True)
        statistics: Tensor = self._statistics[:, None, :, None, None].to(latents.dtype)
        return statistics
