"""FLUX.1: CLIP's pooled embedding, T5's sequence, packed latents, guidance as an input."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from torch import Tensor
from torch.nn.functional import pad
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from dreambooth_trainer.models.bases.packing import PackedFamily, pack, positions, unpack
from dreambooth_trainer.models.defaults import ModelDefaults
from dreambooth_trainer.models.family import Config
from dreambooth_trainer.models.prompts import Conditioning, Tokens
from dreambooth_trainer.models.published import APACHE, FLUX_1_DEV, GpuMemory, PublishedModel

TRAINING_GUIDANCE = 1.0
"""The input at which the distilled model predicts without guidance. With that of sampling, training
would pull guided predictions to the images, and samples would then be guided twice."""

SCHNELL_NOTE = (
    "FLUX.1 schnell was distilled to 4 steps, which training undoes: the result needs about 20;"
    " train FLUX.1 dev and use its LoRA with schnell, if its license allows that"
)


FLUX_1_MEMORY = GpuMemory(
    79.6,
    275.3,
    32.7,
    224.7,
    65.1,
    14.0,
    lora_int8=21.7,
    lora_nf4=18.1,
    lora_nf4_text=14.0,
    lora_nf4_small=12.1,
    lora_nf4_offload=6.9,
    full_sharded=33.4,
)
"""Of models of the same shapes."""


class Flux(PackedFamily):
    """FLUX.1 dev and schnell, and fine-tunes of them (Black Forest Labs 2024)."""

    name = "FLUX.1"
    published = (
        PublishedModel(
            "hf://black-forest-labs/FLUX.1-dev",
            FLUX_1_DEV,
            11.9,
            resolution=1024,
            steps=28,
            guidance_scale=3.5,
            is_gated=True,
            memory=FLUX_1_MEMORY,
        ),
        PublishedModel(
            "hf://black-forest-labs/FLUX.1-Krea-dev",
            FLUX_1_DEV,
            11.9,
            resolution=1024,
            steps=28,
            guidance_scale=3.5,
            is_gated=True,
            memory=FLUX_1_MEMORY,
        ),
        PublishedModel(
            "hf://black-forest-labs/FLUX.1-schnell",
            APACHE,
            11.9,
            resolution=1024,
            steps=4,
            guidance_scale=1.0,
            is_gated=True,
            note=SCHNELL_NOTE,
            memory=GpuMemory(76.5, 269.8, 32.6, 224.3),
        ),
    )
    pipeline_class = FluxPipeline
    other_pipelines = {
        "FluxImg2ImgPipeline": "image to image",
        "FluxInpaintPipeline": "inpainting",
        "FluxFillPipeline": "inpainting",
        "FluxKontextPipeline": "editing images",
        "FluxControlPipeline": "control images",
        "FluxControlNetPipeline": "ControlNet",
        "FluxPriorReduxPipeline": "variations of images",
    }
    modules = {
        "transformer": FluxTransformer2DModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": T5EncoderModel,
    }
    tokenizers = {"tokenizer": CLIPTokenizer, "tokenizer_2": T5TokenizerFast}
    unguided_scale = TRAINING_GUIDANCE
    card_tag = "flux"

    @classmethod
    def find_mismatches(cls, configs: Mapping[str, Config]) -> Iterator[str]:
        """More inputs than packed latents have: FLUX.1 Fill, and models for control images."""
        for mismatch in super().find_mismatches(configs):
            yield f"{mismatch}; inpainting and control models cannot be trained"

    @property
    def _takes_guidance(self) -> bool:
        """Whether guidance was distilled into the model, as into dev, and is an input."""
        return bool(self._pipeline.transformer.config.guidance_embeds)

    @property
    def defaults(self) -> ModelDefaults:
        """Those of the model cards of dev and of schnell."""
        steps = 28 if self._takes_guidance else 4
        return ModelDefaults(
            resolution=self.native_resolution,
            sampler="euler",
            class_image_steps=min(steps, 20),
            sample_steps=steps,
            guidance_scale=3.5 if self._takes_guidance else 1.0,
            lora_targets=(
                "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
                "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
            ),
            samplers=("euler",),
            # The pipeline ignores the scale with schnell.
            max_guidance_scale=50.0 if self._takes_guidance else 1.0,
            takes_negative_prompt=False,
        )  # fmt: skip

    @property
    def training_notes(self) -> list[str]:
        """What training does to the steps that schnell was distilled to."""
        if self._takes_guidance:
            return []
        return [SCHNELL_NOTE]

    @property
    def max_tokens(self) -> int:
        """512 of T5, which dev was trained with; 256 for schnell. CLIP's 77 do not limit."""
        return 512 if self._takes_guidance else 256

    def count_tokens(self, text: str) -> int:
        """Number of T5's tokens, with the end token."""
        return len(self._pipeline.tokenizer_2(text, truncation=False, verbose=False).input_ids)

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """Ids of CLIP [captions, 77] and T5 [captions, `max_tokens`]; the model takes no masks."""
        lengths = {"tokenizer": 77, "tokenizer_2": self.max_tokens}
        return {
            name: getattr(self._pipeline, name)(
                list(captions),
                padding="max_length",
                max_length=length,
                truncation=True,
                return_tensors="pt",
            ).input_ids
            for name, length in lengths.items()
        }

    def encode_tokens(self, tokens: Tokens) -> Conditioning:
        """CLIP's pooled output [captions, 768], and T5's states [captions, `max_tokens`, 4096]."""
        return {
            "pooled": self.text_encoders["text_encoder"](tokens["tokenizer"]).pooler_output,
            "hidden_states": self.text_encoders["text_encoder_2"](tokens["tokenizer_2"])[0],
        }

    def predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        crops: Tensor | None = None,
    ) -> Tensor:
        """The transformer's velocity, without guidance."""
        channels, height, width = noisy.shape[1:]
        states = conditioning["hidden_states"]
        guidance = None
        if self._takes_guidance:
            guidance = conditioning.get("guidance", torch.full_like(timesteps, TRAINING_GUIDANCE))
        velocity = self.denoiser(
            hidden_states=pack(noisy),
            timestep=timesteps,
            guidance=guidance,
            pooled_projections=conditioning["pooled"],
            encoder_hidden_states=states,
            txt_ids=torch.zeros(states.shape[1], 3, device=noisy.device),
            # The first of three axes tells images apart where there are several.
            img_ids=pad(positions(height // 2, width // 2, noisy.device), (1, 0)),
            return_dict=False,
        )[0]
        return unpack(velocity, (channels, height, width))

    def sampling_arguments(
        self, prompts: Conditioning, negative: Conditioning, guidance_scale: float
    ) -> dict[str, Any]:
        """Both embeddings, and guidance as an input of the model."""
        return {
            "prompt_embeds": prompts["hidden_states"],
            "pooled_prompt_embeds": prompts["pooled"],
            "guidance_scale": guidance_scale,
        }
