"""Sana: Gemma's states of a caption behind an instruction, and an autoencoder of factor 32."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from diffusers import (
    AutoencoderDC,
    FlowMatchEulerDiscreteScheduler,
    SanaPipeline,
    SanaTransformer2DModel,
)
from torch import Tensor
from transformers import Gemma2Model, GemmaTokenizerFast

from dreambooth_api.models.prior import Sampler
from dreambooth_trainer.models.bases.flow import FlowFamily
from dreambooth_trainer.models.defaults import ModelDefaults
from dreambooth_trainer.models.family import Config
from dreambooth_trainer.models.prompts import Conditioning, Tokens
from dreambooth_trainer.models.published import (
    NO_COMMERCIAL_USE,
    GpuMemory,
    License,
    PublishedModel,
)

DEFAULTS = ModelDefaults(
    resolution=1024,
    sampler="dpm-solver++",
    class_image_steps=20,
    sample_steps=20,
    guidance_scale=4.5,
    lora_targets=("to_q", "to_k", "to_v"),
    samplers=("dpm-solver++",),
)
LICENSE = License(
    "nscl-v2-custom",
    "https://huggingface.co/Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers/blob/main/LICENSE.txt",
    NO_COMMERCIAL_USE,
)
STATES = 300
"""Of a caption, that the transformer reads."""
INSTRUCTION = "\n".join(
    inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
)
"""What the pipeline puts before every prompt, but not before negative ones.

Source: Xie et al. 2025, section 3.1.
"""


class Sana(FlowFamily):
    """A diffusion transformer with linear attention (Xie et al. 2025)."""

    name = "Sana"
    published = (
        PublishedModel(
            "hf://Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers",
            LICENSE,
            1.6,
            resolution=1024,
            steps=20,
            guidance_scale=4.5,
            sampler="dpm-solver++",
            memory=GpuMemory(
                13.6,
                37.3,
                10.1,
                32.4,
                qlora_checkpointed=7.2,
                lora_int8=9.4,
                lora_nf4=9.0,
                lora_nf4_text=6.6,
                lora_nf4_small=6.4,
            ),
        ),
        PublishedModel(
            "hf://Efficient-Large-Model/SANA1.5_4.8B_1024px_diffusers",
            LICENSE,
            4.7,
            resolution=1024,
            steps=20,
            guidance_scale=4.5,
            sampler="dpm-solver++",
            memory=GpuMemory(
                36.1,
                105.9,
                15.9,
                90.4,
                qlora_checkpointed=10.8,
                lora_int8=13.7,
                lora_nf4=12.7,
                lora_nf4_text=10.4,
                lora_nf4_small=10.0,
                lora_nf4_offload=9.2,
            ),
        ),
        PublishedModel(
            "hf://Efficient-Large-Model/Sana_600M_1024px_diffusers",
            LICENSE,
            0.6,
            resolution=1024,
            steps=20,
            guidance_scale=4.5,
            sampler="dpm-solver++",
            memory=GpuMemory(
                8.2,
                16.7,
                8.2,
                14.4,
                qlora_checkpointed=6.0,
                lora_int8=7.9,
                lora_nf4=7.8,
                lora_nf4_text=5.4,
                lora_nf4_small=5.1,
            ),
        ),
    )
    pipeline_class = SanaPipeline
    other_pipelines = {
        "SanaPAGPipeline": "perturbed-attention guidance",
        "SanaControlNetPipeline": "ControlNet",
        "SanaSprintPipeline": "images in one to four steps",
        "SanaSprintImg2ImgPipeline": "image to image",
        "SanaVideoPipeline": "video",
        "SanaImageToVideoPipeline": "video",
    }
    modules = {
        "transformer": SanaTransformer2DModel,
        "vae": AutoencoderDC,
        "text_encoder": Gemma2Model,
    }
    tokenizers = {"tokenizer": GemmaTokenizerFast}
    latent_patch: ClassVar[int] = 1
    pipeline_multiple: ClassVar[int] = 32
    ignores_padding = True
    card_tag = "sana"

    @classmethod
    def find_mismatches(cls, configs: Mapping[str, Config]) -> Iterator[str]:
        """Different widths of text, or of latents."""
        transformer, vae, text = (configs[part] for part in cls.modules)
        channels = transformer.get("in_channels"), transformer.get("out_channels")
        if channels != (vae.get("latent_channels"),) * 2:
            yield (
                f"its transformer reads {channels[0]} channels and predicts {channels[1]}, and its"
                f" VAE makes {vae.get('latent_channels')}"
            )
        if transformer.get("caption_channels") != text.get("hidden_size"):
            yield (
                f"its transformer expects text of width {transformer.get('caption_channels')} and"
                f" its text encoder makes {text.get('hidden_size')}"
            )

    @property
    def defaults(self) -> ModelDefaults:
        """Those of all sizes, at the model's own resolution, with the sampler of its scheduler."""
        scheduler = self._pipeline.scheduler
        sampler: Sampler = (
            "euler" if isinstance(scheduler, FlowMatchEulerDiscreteScheduler) else "dpm-solver++"
        )
        return replace(
            DEFAULTS, resolution=self.native_resolution, sampler=sampler, samplers=(sampler,)
        )

    @property
    def vae_factor(self) -> int:
        """32."""
        # Every level of an AutoencoderDC but the first halves the resolution.
        return int(2 ** (len(self._vae.config.encoder_block_out_channels) - 1))

    @property
    def native_resolution(self) -> int:
        """512, 1024, 2048 or 4096."""
        return int(self._pipeline.transformer.config.sample_size) * self.vae_factor

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Pixels [N, 3, H, W] in -1..1 -> latents [N, C, H/32, W/32]: there is no posterior."""
        latents: Tensor = self._vae.encode(pixels.to(self._vae.dtype)).latent
        return latents.float().contiguous()

    def sample_latents(self, moments: Tensor, noise: Tensor) -> Tensor:
        """The latents in the denoiser's scale; `noise` has no part in them."""
        return self.scale_latents(moments)

    @property
    def max_tokens(self) -> int:
        """299, with the start: of 300 states, one is the instruction's last."""
        return STATES - 1

    def count_tokens(self, text: str) -> int:
        """Number of tokens of a caption, with the start."""
        return len(self._pipeline.tokenizer(_normalize(text), verbose=False).input_ids)

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """Tokens of captions behind the instruction, and of an empty one without it.

        Ids and mask are [captions, L], for an instruction of L - 298 tokens; `column` [captions,
        300] tells which of them the transformer reads.
        """
        return self._tokenize(captions, [bool(each) for each in captions])

    def _tokenize(self, captions: Sequence[str], instructed: Sequence[bool]) -> Tokens:
        # The instruction's count has the start token, too.
        length = len(self._pipeline.tokenizer.encode(INSTRUCTION)) + STATES - 2
        tokens = self._pipeline.tokenizer(
            [
                (INSTRUCTION if behind else "") + _normalize(text)
                for text, behind in zip(captions, instructed, strict=True)
            ],
            padding="max_length",
            padding_side="right",
            max_length=length,
            truncation=True,
            return_tensors="pt",
        )
        plain = torch.arange(STATES)
        last = torch.cat([plain[:1], plain[1:] + length - STATES])
        columns = [last if behind else plain for behind in instructed]
        return {
            "ids": tokens.input_ids,
            "mask": tokens.attention_mask,
            "column": torch.stack(columns),
        }

    def encode_tokens(self, tokens: Tokens) -> Conditioning:
        """Gemma's last states [captions, 300, D], after its final norm, and their mask."""
        mask, columns = tokens["mask"], tokens["column"]
        states = self.text_encoders["text_encoder"](tokens["ids"], attention_mask=mask)[0]
        chosen = columns[..., None].expand(-1, -1, states.shape[-1])
        return {"hidden_states": states.gather(1, chosen), "mask": mask.gather(1, columns)}

    def tokenize_negative(self, captions: Sequence[str]) -> Tokens:
        """Tokens of negative prompts, which have no instruction."""
        return self._tokenize(captions, [False] * len(captions))

    def predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        crops: Tensor | None = None,
    ) -> Tensor:
        """The transformer's velocity, [N, 32, H/32, W/32]."""
        velocity: Tensor = self.denoiser(
            noisy,
            encoder_hidden_states=conditioning["hidden_states"],
            encoder_attention_mask=conditioning["mask"],
            timestep=1000 * self._pipeline.transformer.config.timestep_scale * timesteps,
            return_dict=False,
        )[0]
        return velocity

    @classmethod
    def card_arguments(cls, guidance_scale: float) -> dict[str, Any]:
        """Otherwise, other sizes than those in diffusers' tables would be drawn and scaled."""
        return {"guidance_scale": guidance_scale, "use_resolution_binning": False}

    def sampling_arguments(
        self, prompts: Conditioning, negative: Conditioning, guidance_scale: float
    ) -> dict[str, Any]:
        """States and masks of both, and the scale of classifier-free guidance, at any size."""
        return {
            "prompt_embeds": prompts["hidden_states"],
            "prompt_attention_mask": prompts["mask"],
            "negative_prompt": None,
            "negative_prompt_embeds": negative["hidden_states"],
            "negative_prompt_attention_mask": negative["mask"],
            "guidance_scale": guidance_scale,
            # By default it draws the nearest of the sizes that the model was trained on.
            "use_resolution_binning": False,
        }


def _normalize(caption: str) -> str:
    """As the pipeline does."""
    return caption.lower().strip()
