"""FLUX.2 klein of 4B and 9B, base and distilled: three of Qwen3's layers as text."""

from collections.abc import Sequence
from typing import Any

from diffusers import Flux2KleinPipeline
from torch import Tensor
from transformers import Qwen2Tokenizer, Qwen3ForCausalLM

from dreambooth_trainer.models.defaults import ModelDefaults
from dreambooth_trainer.models.families.flux2 import LORA_TARGETS, Flux2
from dreambooth_trainer.models.prompts import Conditioning, Tokens
from dreambooth_trainer.models.published import (
    APACHE,
    BLACK_FOREST_LABS_TERMS,
    NO_COMMERCIAL_USE,
    GpuMemory,
    License,
    PublishedModel,
)

KLEIN_9B_LICENSE = License(
    "flux-non-commercial-license", BLACK_FOREST_LABS_TERMS, NO_COMMERCIAL_USE
)
DISTILLED_NOTE = (
    "this FLUX.2 klein was distilled to 4 steps with its guidance, which training undoes: train"
    " FLUX.2-klein-base of the same size and use its LoRA with this model"
)


class Flux2Klein(Flux2):
    """FLUX.2 klein (Black Forest Labs 2026)."""

    name = "FLUX.2 klein"
    published = (
        PublishedModel(
            "hf://black-forest-labs/FLUX.2-klein-base-4B",
            APACHE,
            3.9,
            resolution=1024,
            steps=50,
            guidance_scale=4.0,
            memory=GpuMemory(
                45.3,
                106.6,
                16.1,
                76.2,
                40.4,
                8.5,
                lora_int8=12.7,
                lora_nf4=11.2,
                lora_nf4_text=8.5,
                lora_nf4_small=6.6,
                full_sharded=15.3,
            ),
        ),
        PublishedModel(
            "hf://black-forest-labs/FLUX.2-klein-base-9B",
            KLEIN_9B_LICENSE,
            9.1,
            resolution=1024,
            steps=50,
            guidance_scale=4.0,
            is_gated=True,
            memory=GpuMemory(
                79.3,
                217.1,
                33.7,
                173.5,
                qlora_checkpointed=15.6,
                lora_int8=25.5,
                lora_nf4=22.0,
                lora_nf4_text=13.1,
                lora_nf4_small=12.8,
                lora_nf4_offload=9.0,
            ),
        ),
        PublishedModel(
            "hf://black-forest-labs/FLUX.2-klein-4B",
            APACHE,
            3.9,
            resolution=1024,
            steps=4,
            guidance_scale=1.0,
            note=DISTILLED_NOTE,
            memory=GpuMemory(45.3, 106.6, 16.1, 76.2, 40.4, 8.5),
        ),
        PublishedModel(
            "hf://black-forest-labs/FLUX.2-klein-9B",
            KLEIN_9B_LICENSE,
            9.1,
            resolution=1024,
            steps=4,
            guidance_scale=1.0,
            is_gated=True,
            note=DISTILLED_NOTE,
            memory=GpuMemory(79.3, 217.1, 33.7, 173.5),
        ),
    )
    pipeline_class = Flux2KleinPipeline
    pipeline_settings = ("is_distilled",)
    other_pipelines = {
        "Flux2KleinInpaintPipeline": "inpainting",
        "Flux2KleinKVPipeline": "editing images",
    }
    modules = {**Flux2.modules, "text_encoder": Qwen3ForCausalLM}
    tokenizers = {"tokenizer": Qwen2Tokenizer}
    text_layers = (9, 18, 27)
    guides_in_one_pass = False

    @property
    def _is_distilled(self) -> bool:
        return bool(self._pipeline.config.is_distilled)

    @property
    def defaults(self) -> ModelDefaults:
        """Those of the model cards of the base and of the distilled models."""
        distilled = self._is_distilled
        return ModelDefaults(
            resolution=self.native_resolution,
            sampler="euler",
            class_image_steps=4 if distilled else 28,
            sample_steps=4 if distilled else 50,
            guidance_scale=1.0 if distilled else 4.0,
            lora_targets=LORA_TARGETS,
            samplers=("euler",),
            # The pipeline ignores what is above.
            max_guidance_scale=1.0 if distilled else 50.0,
            takes_negative_prompt=not distilled,
        )

    @property
    def training_notes(self) -> list[str]:
        """What training does to the distilled models."""
        if not self._is_distilled:
            return []
        return [DISTILLED_NOTE]

    def count_tokens(self, text: str) -> int:
        """Number of tokens of a caption, with those of the chat template."""
        return len(self._pipeline.tokenizer(self._as_message(text), verbose=False).input_ids)

    def _as_message(self, caption: str) -> str:
        message = {"role": "user", "content": caption}
        text: str = self._pipeline.tokenizer.apply_chat_template(
            [message], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        return text

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """Token ids and mask, [captions, 512], of captions as a user's messages."""
        tokens = self._pipeline.tokenizer(
            [self._as_message(caption) for caption in captions],
            padding="max_length",
            max_length=self.max_tokens,
            truncation=True,
            return_tensors="pt",
        )
        return {"ids": tokens.input_ids, "mask": tokens.attention_mask}

    @property
    def language_model(self) -> Any:
        """Qwen3."""
        return self.text_encoders["text_encoder"].model

    def decode_latents(self, latents: Tensor, width: int, height: int | None = None) -> Tensor:
        """Latents [N, 32, h, w], whose normalization the pipeline has undone -> pixels."""
        pixels: Tensor = self._vae.decode(latents.to(self._vae.dtype), return_dict=False)[0]
        return pixels

    def sampling_arguments(
        self, prompts: Conditioning, negative: Conditioning, guidance_scale: float
    ) -> dict[str, Any]:
        """Both embeddings; a distilled model reads the first alone."""
        return {
            "prompt_embeds": prompts["hidden_states"],
            "negative_prompt_embeds": negative["hidden_states"],
            "guidance_scale": guidance_scale,
        }
