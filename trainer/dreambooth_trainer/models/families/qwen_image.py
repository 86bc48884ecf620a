"""Qwen-Image: Qwen2.5-VL's states of a caption within a template, packed latents."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from diffusers import (
    AutoencoderKLQwenImage,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from dreambooth_trainer.models.bases.packing import pack, unpack
from dreambooth_trainer.models.bases.video_vae import VideoVaeFamily
from dreambooth_trainer.models.defaults import ModelDefaults
from dreambooth_trainer.models.family import Config
from dreambooth_trainer.models.prompts import Conditioning, Tokens
from dreambooth_trainer.models.published import APACHE, GpuMemory, PublishedModel

DEFAULTS = ModelDefaults(
    resolution=1328,
    sampler="euler",
    class_image_steps=30,
    sample_steps=50,
    guidance_scale=4.0,
    lora_targets=("to_q", "to_k", "to_v", "to_out.0"),
    samplers=("euler",),
)
MAX_TOKENS = 512
"""Of a caption, as in the pipeline; the model takes 1024."""


QWEN_IMAGE_MEMORY = GpuMemory(
    153.0,
    495.7,
    55.3,
    382.9,
    lora_int8=36.3,
    lora_nf4=30.8,
    lora_nf4_text=28.1,
    lora_nf4_small=21.2,
    lora_nf4_offload=15.1,
    full_sharded=54.8,
)
"""Of models of the same shapes."""


class QwenImage(VideoVaeFamily):
    """A multimodal diffusion transformer (Wu et al. 2025)."""

    name = "Qwen-Image"
    published = (
        PublishedModel(
            "hf://Qwen/Qwen-Image-2512",
            APACHE,
            20.4,
            resolution=1328,
            steps=50,
            guidance_scale=4.0,
            memory=QWEN_IMAGE_MEMORY,
        ),
        PublishedModel(
            "hf://Qwen/Qwen-Image",
            APACHE,
            20.4,
            resolution=1328,
            steps=50,
            guidance_scale=4.0,
            memory=QWEN_IMAGE_MEMORY,
        ),
    )
    pipeline_class = QwenImagePipeline
    other_pipelines = {
        "QwenImageEditPipeline": "editing images",
        "QwenImageEditPlusPipeline": "editing images",
        "QwenImageLayeredPipeline": "images of several layers",
        "QwenImageControlNetPipeline": "control images",
        "QwenImageInpaintPipeline": "inpainting",
        "QwenImageImg2ImgPipeline": "changing images",
    }
    modules = {
        "transformer": QwenImageTransformer2DModel,
        "vae": AutoencoderKLQwenImage,
        "text_encoder": Qwen2_5_VLForConditionalGeneration,
    }
    tokenizers = {"tokenizer": Qwen2Tokenizer}
    waits_in_step = True
    ignores_padding = True
    guides_in_one_pass = False
    card_tag = "qwen-image"
    defaults = DEFAULTS

    @classmethod
    def find_mismatches(cls, configs: Mapping[str, Config]) -> Iterator[str]:
        """Different widths of text, or of latents."""
        yield from super().find_mismatches(configs)
        transformer, text = configs["transformer"], configs["text_encoder"]
        if transformer.get("joint_attention_dim") != text.get("hidden_size"):
            yield (
                f"its transformer expects text of width {transformer.get('joint_attention_dim')}"
                f" and its text encoder makes {text.get('hidden_size')}"
            )

    def unused_modules(self, part: str) -> Sequence[nn.Module]:
        """What the last block makes of the text: only the image goes on."""
        if part != self.denoiser_part:
            return ()
        last = self._pipeline.transformer.transformer_blocks[-1]
        return last.attn.to_add_out, last.txt_mlp

    @property
    def max_tokens(self) -> int:
        """512, without those of the template."""
        return MAX_TOKENS

    @property
    def _prefix(self) -> int:
        """Number of the template's tokens before the caption."""
        return int(self._pipeline.prompt_template_encode_start_idx)

    def count_tokens(self, text: str) -> int:
        """Number of tokens of a caption, without those of the template before it."""
        text = self._pipeline.prompt_template_encode.format(text)
        return len(self._pipeline.tokenizer(text, verbose=False).input_ids) - self._prefix

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """Token ids and mask, [captions, prefix + 512], of captions within the template."""
        tokens = self._pipeline.tokenizer(
            [self._pipeline.prompt_template_encode.format(caption) for caption in captions],
            padding="max_length",
            max_length=self._prefix + self.max_tokens,
            truncation=True,
            padding_side="right",
            return_tensors="pt",
        )
        return {"ids": tokens.input_ids, "mask": tokens.attention_mask}

    def encode_tokens(self, tokens: Tokens) -> Conditioning:
        """The last states behind the prefix [captions, 512, D], zero in the padding, and a mask."""
        states = self.text_encoders["text_encoder"](
            input_ids=tokens["ids"], attention_mask=tokens["mask"], output_hidden_states=True
        ).hidden_states[-1]
        mask = tokens["mask"][:, self._prefix :]
        return {
            "hidden_states": states[:, self._prefix :] * mask[..., None].to(states.dtype),
            "mask": mask.bool(),
        }

    def predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        crops: Tensor | None = None,
    ) -> Tensor:
        """The transformer's velocity, [N, 16, H/8, W/8]."""
        channels, height, width = noisy.shape[1:]
        velocity = self.denoiser(
            hidden_states=pack(noisy),
            timestep=timesteps,
            guidance=None,
            encoder_hidden_states=conditioning["hidden_states"],
            encoder_hidden_states_mask=conditioning["mask"],
            img_shapes=[[(1, height // 2, width // 2)]] * len(noisy),
            return_dict=False,
        )[0]
        return unpack(velocity, (channels, height, width))

    @classmethod
    def card_arguments(cls, guidance_scale: float) -> dict[str, Any]:
        """Guidance needs a negative prompt, empty or not."""
        return {"true_cfg_scale": guidance_scale, "negative_prompt": ""}

    def sampling_arguments(
        self, prompts: Conditioning, negative: Conditioning, guidance_scale: float
    ) -> dict[str, Any]:
        """States and masks of both; guidance keeps the norm of the conditional prediction."""
        arguments = {
            "prompt_embeds": prompts["hidden_states"],
            "prompt_embeds_mask": prompts["mask"],
            "true_cfg_scale": guidance_scale,
            # That of models that guidance was distilled into, of which there is none.
            "guidance_scale": None,
        }
        if guidance_scale > 1:
            arguments["negative_prompt_embeds"] = negative["hidden_states"]
            arguments["negative_prompt_embeds_mask"] = negative["mask"]
        return arguments
