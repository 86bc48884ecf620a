"""Stable Diffusion 3 and 3.5: two CLIP text encoders and T5, of which T5 may be missing."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor, nn
from transformers import (
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5EncoderModel,
    T5TokenizerFast,
)

from dreambooth_trainer.models.bases.flow import FlowFamily
from dreambooth_trainer.models.defaults import ModelDefaults
from dreambooth_trainer.models.family import Config, Family
from dreambooth_trainer.models.prompts import Conditioning, Tokens
from dreambooth_trainer.models.published import STABILITY_COMMUNITY, GpuMemory, PublishedModel

DEFAULTS = ModelDefaults(
    resolution=1024,
    sampler="euler",
    class_image_steps=28,
    sample_steps=28,
    guidance_scale=4.5,
    lora_targets=(
        "attn.to_q",
        "attn.to_k",
        "attn.to_v",
        "attn.to_out.0",
        "attn.add_q_proj",
        "attn.add_k_proj",
        "attn.add_v_proj",
        "attn.to_add_out",
    ),
    samplers=("euler",),
)
CLIP_PARTS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
"""The tokenizers of the CLIP text encoders."""
T5_TOKENS = 256


class StableDiffusion3(FlowFamily):
    """A multimodal diffusion transformer (Esser et al. 2024).

    Its text encoders stay frozen, CLIP's too: T5 would have to run in each step beside them, as
    conditioning is computed either once or in the steps, for all text encoders of a model alike.
    """

    name = "Stable Diffusion 3 and 3.5"
    published = (
        PublishedModel(
            "hf://stabilityai/stable-diffusion-3.5-medium",
            STABILITY_COMMUNITY,
            2.2,
            resolution=1024,
            steps=28,
            guidance_scale=4.5,
            is_gated=True,
            memory=GpuMemory(
                23.3, 65.4, 16.4, 45.9, lora_int8=14.3, lora_nf4=13.7, lora_nf4_text=7.2
            ),
        ),
        PublishedModel(
            "hf://stabilityai/stable-diffusion-3.5-large",
            STABILITY_COMMUNITY,
            8.1,
            resolution=1024,
            steps=28,
            guidance_scale=4.5,
            is_gated=True,
            memory=GpuMemory(
                51.7,
                179.5,
                26.9,
                153.8,
                qlora_checkpointed=12.4,
                lora_int8=19.5,
                lora_nf4=17.3,
                lora_nf4_text=11.0,
                lora_nf4_small=10.2,
                lora_nf4_offload=6.0,
            ),
        ),
        PublishedModel(
            "hf://stabilityai/stable-diffusion-3-medium-diffusers",
            STABILITY_COMMUNITY,
            2.0,
            resolution=1024,
            steps=28,
            guidance_scale=4.5,
            is_gated=True,
            memory=GpuMemory(
                16.1,
                49.3,
                15.6,
                40.9,
                qlora_checkpointed=8.3,
                lora_int8=13.8,
                lora_nf4=13.2,
                lora_nf4_text=6.7,
                lora_nf4_small=6.1,
            ),
        ),
    )
    pipeline_class = StableDiffusion3Pipeline
    other_pipelines = {
        "StableDiffusion3Img2ImgPipeline": "image to image",
        "StableDiffusion3InpaintPipeline": "inpainting",
        "StableDiffusion3ControlNetPipeline": "ControlNet",
        "StableDiffusion3ControlNetInpaintingPipeline": "ControlNet",
    }
    modules = {
        "transformer": SD3Transformer2DModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModelWithProjection,
        "text_encoder_2": CLIPTextModelWithProjection,
        "text_encoder_3": T5EncoderModel,
    }
    tokenizers = {
        "tokenizer": CLIPTokenizer,
        "tokenizer_2": CLIPTokenizer,
        "tokenizer_3": T5TokenizerFast,
    }
    card_tag = "stable-diffusion-3"

    @property
    def largest_side(self) -> int:
        """That of its table of positions."""
        positions = self._pipeline.transformer.config.pos_embed_max_size
        return int(positions) * self.resolution_step

    @classmethod
    def for_index(cls, index: Config) -> type[Family]:
        """T5 is optional: an index may hold null for it."""
        t5 = index.get("text_encoder_3")
        return StableDiffusion3WithoutT5 if t5 is None or t5 == [None, None] else cls

    @classmethod
    def find_mismatches(cls, configs: Mapping[str, Config]) -> Iterator[str]:
        """Different widths of text, or of latents."""
        transformer, vae = configs["transformer"], configs["vae"]
        if transformer.get("in_channels") != vae.get("latent_channels"):
            yield (
                f"its transformer reads {transformer.get('in_channels')} channels and its VAE makes"
                f" {vae.get('latent_channels')}"
            )
        pooled = sum(configs[part].get("projection_dim", 0) for part in CLIP_PARTS)
        if transformer.get("pooled_projection_dim") != pooled:
            yield (
                "its transformer expects pooled text of width"
                f" {transformer.get('pooled_projection_dim')} and its CLIP text encoders make"
                f" {pooled}"
            )
        width, t5 = transformer.get("joint_attention_dim"), configs.get("text_encoder_3")
        if t5 is not None and width != t5.get("d_model"):
            yield f"its transformer expects text of width {width} and T5 makes {t5.get('d_model')}"

    @property
    def defaults(self) -> ModelDefaults:
        """The same for all sizes."""
        return DEFAULTS

    @property
    def max_tokens(self) -> int:
        """256 of T5; the CLIP text encoders read 77 of them."""
        return T5_TOKENS

    def count_tokens(self, text: str) -> int:
        """Number of T5's tokens of a caption, with the end token."""
        return len(self._pipeline.tokenizer_3(text, verbose=False).input_ids)

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """Token ids of each text encoder, by its folder: [captions, 77], and [captions, 256]."""
        lengths = dict.fromkeys(CLIP_PARTS, self._pipeline.tokenizer.model_max_length)
        lengths["text_encoder_3"] = self.max_tokens
        return {
            part: getattr(self._pipeline, part.replace("text_encoder", "tokenizer"))(
                list(captions),
                padding="max_length",
                truncation=True,
                max_length=lengths[part],
                return_tensors="pt",
            ).input_ids
            for part in self.text_encoders
        }

    def encode_tokens(self, tokens: Tokens) -> Conditioning:
        """CLIP's states, padded to T5's width, then T5's: [captions, 77 + 256, D]; pooled states.

        The pooled states are those of both CLIP text encoders, [captions, 2048].
        """
        clip = [
            self.text_encoders[part](tokens[part], output_hidden_states=True) for part in CLIP_PARTS
        ]
        states = torch.cat([each.hidden_states[-2] for each in clip], dim=-1)
        t5 = self._encode_t5(tokens).to(states.dtype)
        padded = nn.functional.pad(states, (0, t5.shape[-1] - states.shape[-1]))
        return {
            "hidden_states": torch.cat([padded, t5], dim=1),
            "pooled": torch.cat([each.text_embeds for each in clip], dim=-1),
        }

    def _encode_t5(self, tokens: Tokens) -> Tensor:
        states: Tensor = self.text_encoders["text_encoder_3"](tokens["text_encoder_3"])[0]
        return states

    def predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        crops: Tensor | None = None,
    ) -> Tensor:
        """The transformer's velocity, [N, 16, H/8, W/8]."""
        velocity: Tensor = self.denoiser(
            hidden_states=noisy,
            timestep=1000 * timesteps,
            encoder_hidden_states=conditioning["hidden_states"],
            pooled_projections=conditioning["pooled"],
            return_dict=False,
        )[0]
        return velocity

    def sampling_arguments(
        self, prompts: Conditioning, negative: Conditioning, guidance_scale: float
    ) -> dict[str, Any]:
        """States and pooled states of both, and the scale of classifier-free guidance."""
        return {
            "prompt_embeds": prompts["hidden_states"],
            "pooled_prompt_embeds": prompts["pooled"],
            "negative_prompt_embeds": negative["hidden_states"],
            "negative_pooled_prompt_embeds": negative["pooled"],
            "guidance_scale": guidance_scale,
        }


class StableDiffusion3WithoutT5(StableDiffusion3):
    """The same with zeros in place of T5's states, as it also was trained."""

    missing_parts = ("text_encoder_3", "tokenizer_3")
    modules = {
        part: StableDiffusion3.modules[part]
        for part in ("transformer", "vae", "text_encoder", "text_encoder_2")
    }
    tokenizers = {part: StableDiffusion3.tokenizers[part] for part in ("tokenizer", "tokenizer_2")}

    @classmethod
    def assemble(cls, parts: Mapping[str, Any]) -> Any:
        """A pipeline without T5."""
        return StableDiffusion3Pipeline(**parts, **dict.fromkeys(cls.missing_parts))

    @property
    def max_tokens(self) -> int:
        """77, with start and end."""
        return int(self._pipeline.tokenizer.model_max_length)

    def count_tokens(self, text: str) -> int:
        """Number of CLIP's tokens of a caption, with start and end."""
        return len(self._pipeline.tokenizer(text, verbose=False).input_ids)

    def _encode_t5(self, tokens: Tokens) -> Tensor:
        ids = tokens["text_encoder"]
        width = self._pipeline.transformer.config.joint_attention_dim
        return torch.zeros(len(ids), T5_TOKENS, width, device=ids.device)
