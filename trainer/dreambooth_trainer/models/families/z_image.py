"""Z-Image and Z-Image-Turbo: Qwen3's states of a caption and the image's tokens in one stream."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers import AutoencoderKL, ZImagePipeline, ZImageTransformer2DModel
from torch import Tensor
from transformers import Qwen2Tokenizer, Qwen3Model

from dreambooth_trainer.models.adapters.exported import Adapter
from dreambooth_trainer.models.bases.flow import FlowFamily
from dreambooth_trainer.models.defaults import ModelDefaults
from dreambooth_trainer.models.family import Config
from dreambooth_trainer.models.names.kohya import with_alpha
from dreambooth_trainer.models.prompts import Conditioning, Tokens
from dreambooth_trainer.models.published import APACHE, GpuMemory, PublishedModel

DEFAULTS = ModelDefaults(
    resolution=1024,
    sampler="euler",
    class_image_steps=28,
    sample_steps=28,
    guidance_scale=4.0,
    lora_targets=("to_q", "to_k", "to_v", "to_out.0"),
    samplers=("euler",),
)
TURBO_DEFAULTS = replace(
    DEFAULTS,
    class_image_steps=9,
    sample_steps=9,
    guidance_scale=0.0,
    takes_negative_prompt=False,
)
TURBO_SHIFT = 3.0
"""The scheduler's shift of Turbo: the base model's is 6, and no other setting differs."""
TURBO_NOTE = (
    "Z-Image-Turbo was distilled to 8 steps without guidance, and training undoes this little by"
    " little: images in few steps lose detail; train Z-Image itself, or keep the run short"
)
MAX_TOKENS = 512


class ZImage(FlowFamily):
    """A single-stream diffusion transformer (Z-Image Team 2025)."""

    name = "Z-Image"
    published = (
        PublishedModel(
            "hf://Tongyi-MAI/Z-Image",
            APACHE,
            6.2,
            resolution=1024,
            steps=28,
            guidance_scale=4.0,
            memory=GpuMemory(
                86.0,
                214.1,
                20.5,
                119.3,
                qlora_checkpointed=8.9,
                lora_int8=14.7,
                lora_nf4=12.3,
                lora_nf4_text=8.7,
                lora_nf4_small=7.5,
            ),
        ),
        PublishedModel(
            "hf://Tongyi-MAI/Z-Image-Turbo",
            APACHE,
            6.2,
            resolution=1024,
            steps=9,
            guidance_scale=0.0,
            note=TURBO_NOTE,
            memory=GpuMemory(86.0, 214.1, 20.5, 118.0),
        ),
    )
    pipeline_class = ZImagePipeline
    other_pipelines = {
        "ZImageImg2ImgPipeline": "image to image",
        "ZImageInpaintPipeline": "inpainting",
        "ZImageOmniPipeline": "editing",
        "ZImageControlNetPipeline": "ControlNet",
        "ZImageControlNetInpaintPipeline": "ControlNet",
    }
    modules = {
        "transformer": ZImageTransformer2DModel,
        "vae": AutoencoderKL,
        "text_encoder": Qwen3Model,
    }
    tokenizers = {"tokenizer": Qwen2Tokenizer}
    # Its pipeline adds scale x (conditional - unconditional) to the conditional prediction.
    unguided_scale = 0.0
    waits_in_step = True
    ignores_padding = True
    card_tag = "z-image"

    @classmethod
    def find_mismatches(cls, configs: Mapping[str, Config]) -> Iterator[str]:
        """Different widths of text, or of latents."""
        transformer, vae, text = (configs[part] for part in cls.modules)
        if transformer.get("in_channels") != vae.get("latent_channels"):
            yield (
                f"its transformer reads {transformer.get('in_channels')} channels and its VAE makes"
                f" {vae.get('latent_channels')}"
            )
        if transformer.get("cap_feat_dim") != text.get("hidden_size"):
            yield (
                f"its transformer expects text of width {transformer.get('cap_feat_dim')} and its"
                f" text encoder makes {text.get('hidden_size')}"
            )

    @property
    def _is_turbo(self) -> bool:
        """By the scheduler's shift: nothing that is published beside the weights says it."""
        return bool(self._pipeline.scheduler.config.shift == TURBO_SHIFT)

    @property
    def defaults(self) -> ModelDefaults:
        """Those of the base model, or of Turbo."""
        return TURBO_DEFAULTS if self._is_turbo else DEFAULTS

    @property
    def training_notes(self) -> list[str]:
        """What training does to Turbo's distillation."""
        if not self._is_turbo:
            return []
        return [TURBO_NOTE]

    @property
    def largest_side(self) -> int:
        """That of its tables of rotations for rows and columns."""
        _, rows, columns = self._pipeline.transformer.config.axes_lens
        return int(min(rows, columns) * self.resolution_step)

    @property
    def max_tokens(self) -> int:
        """512, with those of the chat template."""
        return MAX_TOKENS

    def count_tokens(self, text: str) -> int:
        """Number of tokens of a caption, with those of the chat template."""
        return len(self._pipeline.tokenizer(self._as_message(text), verbose=False).input_ids)

    def _as_message(self, caption: str) -> str:
        message = {"role": "user", "content": caption}
        text: str = self._pipeline.tokenizer.apply_chat_template(
            [message], tokenize=False, add_generation_prompt=True, enable_thinking=True
        )
        return text

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """Token ids and mask, [captions, 512], of captions as a user's messages."""
        tokens = self._pipeline.tokenizer(
            [self._as_message(caption) for caption in captions],
            padding="max_length",
            max_length=MAX_TOKENS,
            truncation=True,
            return_tensors="pt",
        )
        return {"ids": tokens.input_ids, "mask": tokens.attention_mask.bool()}

    def encode_tokens(self, tokens: Tokens) -> Conditioning:
        """Qwen3's states before its last layer [captions, 512, D], and a mask."""
        states = self.text_encoders["text_encoder"](
            tokens["ids"], attention_mask=tokens["mask"], output_hidden_states=True
        ).hidden_states[-2]
        return {"hidden_states": states, "mask": tokens["mask"]}

    def predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        crops: Tensor | None = None,
    ) -> Tensor:
        """The transformer's velocity [N, 16, H/8, W/8]; its own is from noise to image."""
        images = list(noisy.unsqueeze(2).unbind())
        captions = _without_padding(conditioning)
        velocities = self.denoiser(images, 1 - timesteps, captions, return_dict=False)[0]
        return -torch.stack(velocities).squeeze(2)

    def sampling_arguments(
        self, prompts: Conditioning, negative: Conditioning, guidance_scale: float
    ) -> dict[str, Any]:
        """States of both without padding, and the scale of guidance, of which 0 is none."""
        return {
            "prompt_embeds": _without_padding(prompts),
            "negative_prompt_embeds": _without_padding(negative),
            "guidance_scale": guidance_scale,
        }

    def web_ui_name(self, part: str, module: str) -> str:
        """ComfyUI's name, which is that of diffusers with another prefix."""
        return f"diffusion_model.{module}"

    def web_ui_lora(self, adapters: Sequence[Adapter]) -> tuple[dict[str, Tensor], dict[str, str]]:
        """ComfyUI's names, which are diffusers' with another prefix."""
        return with_alpha(adapters, self.web_ui_name), {}


def _without_padding(conditioning: Conditioning) -> list[Tensor]:
    """The states [tokens, D] of each caption, as the transformer and its pipeline take them."""
    states = conditioning["hidden_states"]
    # Reading the lengths waits for the device, once a step. The meta device has no values to read:
    # there, all captions are as long as the longest.
    count = states.shape[1]
    lengths = [count] * len(states) if states.is_meta else conditioning["mask"].sum(dim=1).tolist()
    return [each[:length] for each, length in zip(states, lengths, strict=True)]
