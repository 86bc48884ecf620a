"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, a 4-channel VAE, a UNet."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextModel

from dreambooth_trainer.models.defaults import ModelDefaults
from dreambooth_trainer.models.family import Conditioning

DEFAULTS = ModelDefaults(
    resolution=512,
    sampler="dpm-solver++",
    class_image_steps=20,
    sample_steps=25,
    guidance_scale=7.5,
    lora_targets=("to_q", "to_k", "to_v", "to_out.0"),
    samplers=("dpm-solver++", "ddim", "euler", "pndm"),
)
"""Of Stable Diffusion 1.x; version 2 differs in its resolution."""
LOG_VARIANCE_RANGE = (-30.0, 20.0)
"""Bounds of the posterior's log variance, as in diffusers' DiagonalGaussianDistribution."""


class StableDiffusion:
    """The `Family` interface over a StableDiffusionPipeline (Rombach et al. 2022)."""

    modules: ClassVar[dict[str, type]] = {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
    }
    """The parts with weights that training loads, by their folders."""
    objective_kind: ClassVar[Literal["ddpm"]] = "ddpm"
    lora_text_targets = ["q_proj", "k_proj", "v_proj", "out_proj"]

    def __init__(self, pipeline: StableDiffusionPipeline, model_hash: str) -> None:
        self.model_hash = model_hash
        self._pipeline = pipeline
        self._vae = pipeline.vae
        self._tokenizer = pipeline.tokenizer
        # Samplers have schedules of their own; training uses that of the base model's training.
        self._schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
        self.denoiser: nn.Module = pipeline.unet
        self.text_encoders: dict[str, nn.Module] = {"text_encoder": pipeline.text_encoder}
        # `make_trainable` unfreezes what is trained.
        for module in (self._vae, self.denoiser, pipeline.text_encoder):
            module.requires_grad_(False)
            module.eval()

    @property
    def prediction_type(self) -> str:
        """`epsilon`; `v_prediction` for Stable Diffusion 2 at 768 x 768 pixels."""
        return str(self._schedule.config.prediction_type)

    @property
    def alphas_cumprod(self) -> Tensor:
        """Cumulative signal of the training timesteps, [1000] (Ho et al. 2020, section 2)."""
        alphas: Tensor = self._schedule.alphas_cumprod
        return alphas

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Pixels [N, 3, R, R] -> mean and log variance [N, 8, R/8, R/8], stacked, in fp32."""
        # The moments, not a sample: a new sample is drawn at every step that uses the image.
        parameters: Tensor = self._vae.encode(pixels.to(self._vae.dtype)).latent_dist.parameters
        return parameters.float()

    def sample_latents(self, moments: Tensor, noise: Tensor) -> Tensor:
        """Mean + deviation x noise, [N, 4, R/8, R/8], scaled to about unit variance.

        Source of the scale: Rombach et al. 2022, appendix G.
        """
        mean, log_variance = moments.chunk(2, dim=1)
        deviation = (0.5 * log_variance.clamp(*LOG_VARIANCE_RANGE)).exp()
        shift = self._vae.config.get("shift_factor") or 0.0
        latents: Tensor = (mean + deviation * noise - shift) * self._vae.config.scaling_factor
        return latents

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """Token ids [captions, 77] of CLIP's tokenizer."""
        tokens: Tensor = self._tokenizer(
            list(captions),
            padding="max_length",
            truncation=True,
            max_length=self._tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids
        return tokens

    def encode_tokens(self, tokens: Tensor) -> Conditioning:
        """The text encoder's last hidden states [captions, 77, D], after its final layer norm."""
        return {"hidden_states": self.text_encoders["text_encoder"](tokens)[0]}

    def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The UNet's prediction, [N, 4, R/8, R/8]."""
        states = conditioning["hidden_states"]
        prediction: Tensor = self.denoiser(noisy, timesteps, states, return_dict=False)[0]
        return prediction

    def pipeline(self) -> Any:
        """The pipeline, whose UNet and text encoder are trained in place."""
        return self._pipeline
