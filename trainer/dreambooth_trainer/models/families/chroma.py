"""Chroma: FLUX.1 without CLIP and without distillation; T5's padding is masked."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import AutoencoderKL, ChromaPipeline, ChromaTransformer2DModel
from diffusers.models.transformers.transformer_chroma import ChromaSingleTransformerBlock
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import T5EncoderModel, T5TokenizerFast

from dreambooth_trainer.models.bases.packing import PackedFamily, pack, positions, unpack
from dreambooth_trainer.models.defaults import ModelDefaults
from dreambooth_trainer.models.family import Config
from dreambooth_trainer.models.prompts import Conditioning, Tokens
from dreambooth_trainer.models.published import APACHE, GpuMemory, PublishedModel

DEFAULTS = ModelDefaults(
    resolution=1024,
    sampler="euler",
    class_image_steps=28,
    sample_steps=40,
    guidance_scale=3.0,
    lora_targets=("to_q", "to_k", "to_v", "to_out.0"),
    samplers=("euler",),
)


CHROMA_MEMORY = GpuMemory(
    77.9,
    235.3,
    26.9,
    168.8,
    lora_int8=18.9,
    lora_nf4=15.4,
    lora_nf4_text=11.4,
    lora_nf4_small=9.5,
    lora_nf4_offload=7.1,
)
"""Of models of the same shapes."""


class Chroma(PackedFamily):
    """Chroma1 and its fine-tunes (Lodestone Rock 2025)."""

    name = "Chroma"
    published = (
        PublishedModel(
            "hf://lodestones/Chroma1-HD",
            APACHE,
            8.9,
            resolution=1024,
            steps=40,
            guidance_scale=3.0,
            memory=CHROMA_MEMORY,
        ),
        PublishedModel(
            "hf://lodestones/Chroma1-Base",
            APACHE,
            8.9,
            resolution=1024,
            steps=40,
            guidance_scale=3.0,
            memory=CHROMA_MEMORY,
        ),
    )
    pipeline_class = ChromaPipeline
    other_pipelines = {
        "ChromaImg2ImgPipeline": "image to image",
        "ChromaInpaintPipeline": "inpainting",
    }
    modules = {
        "transformer": ChromaTransformer2DModel,
        "vae": AutoencoderKL,
        "text_encoder": T5EncoderModel,
    }
    tokenizers = {"tokenizer": T5TokenizerFast}
    # Its transformer copies a number from the host in every call.
    waits_in_step = True
    not_adapted = ("distilled_guidance_layer",)
    guides_in_one_pass = False
    card_tag = "chroma"
    defaults = DEFAULTS
    max_tokens = 512

    @classmethod
    def find_mismatches(cls, configs: Mapping[str, Config]) -> Iterator[str]:
        """Different widths of text, or of packed latents."""
        yield from super().find_mismatches(configs)
        transformer, text = configs["transformer"], configs["text_encoder"]
        if transformer.get("joint_attention_dim") != text.get("d_model"):
            yield (
                "its transformer expects text of width"
                f" {transformer.get('joint_attention_dim')} and T5 makes {text.get('d_model')}"
            )

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """T5's token ids and their mask, [captions, 512]."""
        tokens = self._pipeline.tokenizer(
            list(captions),
            padding="max_length",
            max_length=self.max_tokens,
            truncation=True,
            return_tensors="pt",
        )
        return {"ids": tokens.input_ids, "mask": tokens.attention_mask}

    def encode_tokens(self, tokens: Tokens) -> Conditioning:
        """T5's states [captions, 512, 4096], and which of them the transformer reads."""
        mask = tokens["mask"]
        states = self.text_encoders["text_encoder"](tokens["ids"], attention_mask=mask)[0]
        # The transformer was trained to see one token of padding behind the caption.
        places = torch.arange(mask.shape[1], device=mask.device)
        read = places <= mask.sum(dim=1, keepdim=True)
        # diffusers' transformer adds this to the attention scores, so it must not be boolean. The
        # rest of the padding is read too, with a lower score: it cannot be dropped.
        return {"hidden_states": states, "mask": read.to(states.dtype)}

    def predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        crops: Tensor | None = None,
    ) -> Tensor:
        """The transformer's velocity, [N, 16, H/8, W/8]."""
        channels, height, width = noisy.shape[1:]
        tokens, states = pack(noisy), conditioning["hidden_states"]
        mask = pad(conditioning["mask"], (0, tokens.shape[1]), value=1.0)
        with self._masked_checkpointing(mask):
            velocity = self.denoiser(
                hidden_states=tokens,
                timestep=timesteps,
                encoder_hidden_states=states,
                txt_ids=torch.zeros(states.shape[1], 3, device=noisy.device),
                # The first of three axes tells images apart where there are several.
                img_ids=pad(positions(height // 2, width // 2, noisy.device), (1, 0)),
                attention_mask=mask,
                return_dict=False,
            )[0]
        return unpack(velocity, (channels, height, width))

    @contextmanager
    def _masked_checkpointing(self, mask: Tensor) -> Iterator[None]:
        """With gradient checkpointing, diffusers leaves the mask out of single-stream blocks."""
        if not self.denoiser.gradient_checkpointing:
            yield
            return
        checkpoint: Any = self.denoiser._gradient_checkpointing_func

        def with_mask(block: nn.Module, *inputs: Any) -> Any:
            is_single = isinstance(block, ChromaSingleTransformerBlock)
            return checkpoint(block, *inputs, *((mask,) if is_single else ()))

        self.denoiser._gradient_checkpointing_func = with_mask  # type: ignore[assignment]
        try:
            yield
        finally:
            self.denoiser._gradient_checkpointing_func = checkpoint

    def sampling_arguments(
        self, prompts: Conditioning, negative: Conditioning, guidance_scale: float
    ) -> dict[str, Any]:
        """States and masks of both, and the scale of classifier-free guidance."""
        return {
            "prompt_embeds": prompts["hidden_states"],
            "prompt_attention_mask": prompts["mask"],
            "negative_prompt_embeds": negative["hidden_states"],
            "negative_prompt_attention_mask": negative["mask"],
            "guidance_scale": guidance_scale,
        }
