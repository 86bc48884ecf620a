"""Krea 2: a stack of Qwen3-VL's layers as text, which the transformer joins; packed latents."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers import AutoencoderKLQwenImage, Krea2Pipeline, Krea2Transformer2DModel
from torch import Tensor
from torch.nn.functional import pad
from transformers import Qwen2Tokenizer, Qwen3VLModel

from dreambooth_trainer.models.adapters.exported import Adapter
from dreambooth_trainer.models.bases.language_model import text_width
from dreambooth_trainer.models.bases.packing import pack, positions, unpack
from dreambooth_trainer.models.bases.video_vae import VideoVaeFamily
from dreambooth_trainer.models.defaults import ModelDefaults
from dreambooth_trainer.models.family import Config
from dreambooth_trainer.models.prompts import Conditioning, Tokens
from dreambooth_trainer.models.published import GpuMemory, License, PublishedModel

DEFAULTS = ModelDefaults(
    resolution=1024,
    sampler="euler",
    class_image_steps=28,
    sample_steps=28,
    guidance_scale=4.5,
    lora_targets=(
        "img_in", "final_layer.linear", "to_q", "to_k", "to_v", "to_out.0", "to_gate", "ff.up",
        "ff.down", "text_fusion.projector", "txt_in.linear_1", "txt_in.linear_2",
        "time_embed.linear_1", "time_embed.linear_2", "time_mod_proj",
    ),
    samplers=("euler",),
)  # fmt: skip
TURBO_DEFAULTS = replace(
    DEFAULTS,
    class_image_steps=8,
    sample_steps=8,
    guidance_scale=0.0,
    takes_negative_prompt=False,
)
TURBO_SHIFT_EXPONENT = 1.15
"""Turbo's at every resolution, as in the pipeline."""

LICENSE = License(
    "krea-2-community-license",
    "https://www.krea.ai/krea-2-licensing",
    "commercial use up to a revenue of $1,000,000 a year",
)
TURBO_NOTE = (
    "Krea 2 Turbo was distilled to 8 steps without guidance, which training undoes: train Krea 2"
    " Raw and use its LoRA with Turbo"
)
ORIGINAL_NAMES = {
    "transformer_blocks.": "blocks.", "text_fusion.": "txtfusion.",
    "attn.to_q": "attn.wq", "attn.to_k": "attn.wk", "attn.to_v": "attn.wv",
    "attn.to_out.0": "attn.wo", "attn.to_gate": "attn.gate", "ff.": "mlp.",
    "img_in": "first", "final_layer.": "last.", "time_mod_proj": "tproj.1",
    "time_embed.linear_1": "tmlp.0", "time_embed.linear_2": "tmlp.2",
    "txt_in.linear_1": "txtmlp.1", "txt_in.linear_2": "txtmlp.3",
}  # fmt: skip
"""Parts of the names of modules, and what they are in the original code."""

KREA_2_MEMORY = GpuMemory(
    127.3,
    322.0,
    35.3,
    242.6,
    qlora_checkpointed=18.6,
    lora_int8=23.7,
    lora_nf4=18.6,
    lora_nf4_text=18.6,
    lora_nf4_small=16.5,
    lora_nf4_offload=12.5,
    full_sharded=43.9,
)


class Krea2(VideoVaeFamily):
    """Krea 2 Raw and Turbo (Krea 2026)."""

    name = "Krea 2"
    published = (
        PublishedModel(
            "hf://krea/Krea-2-Raw",
            LICENSE,
            12.8,
            resolution=1024,
            steps=28,
            guidance_scale=4.5,
            is_gated=True,
            memory=KREA_2_MEMORY,
        ),
        PublishedModel(
            "hf://krea/Krea-2-Turbo",
            LICENSE,
            12.8,
            resolution=1024,
            steps=8,
            guidance_scale=0.0,
            is_gated=True,
            note=TURBO_NOTE,
            memory=KREA_2_MEMORY,
        ),
    )
    pipeline_class = Krea2Pipeline
    pipeline_settings = ("text_encoder_select_layers", "is_distilled", "patch_size")
    modules = {
        "transformer": Krea2Transformer2DModel,
        "vae": AutoencoderKLQwenImage,
        "text_encoder": Qwen3VLModel,
    }
    tokenizers = {"tokenizer": Qwen2Tokenizer}
    # Its pipeline adds scale x (conditional - unconditional) to the conditional prediction.
    unguided_scale = 0.0
    ignores_padding = True
    guides_in_one_pass = False
    card_tag = "krea-2"

    @classmethod
    def assemble(cls, parts: Mapping[str, Any]) -> Any:
        """The pipeline, whose settings must fit its parts.

        Raises:
            ValueError: The transformer expects another number of layers of text, or tokens of
                another size.
        """
        pipeline = super().assemble(parts)
        expected = parts["transformer"].config.num_text_layers
        if len(pipeline.text_encoder_select_layers) != expected:
            raise ValueError(f"text_encoder_select_layers must be {expected} layers")
        if pipeline.patch_size != cls.latent_patch:
            raise ValueError(f"patch_size must be {cls.latent_patch}")
        return pipeline

    @classmethod
    def find_mismatches(cls, configs: Mapping[str, Config]) -> Iterator[str]:
        """Different widths of latents, or of text."""
        yield from super().find_mismatches(configs)
        transformer, text = configs["transformer"], configs["text_encoder"]
        if (read := transformer.get("text_hidden_dim")) != text_width(text):
            yield (
                f"its transformer expects text of width {read} and its text encoder makes"
                f" {text_width(text)}"
            )

    @property
    def _is_turbo(self) -> bool:
        return bool(self._pipeline.config.is_distilled)

    @property
    def defaults(self) -> ModelDefaults:
        """Those of the model cards of Raw and of Turbo."""
        return TURBO_DEFAULTS if self._is_turbo else DEFAULTS

    @property
    def training_notes(self) -> list[str]:
        """What training does to Turbo's distillation."""
        if not self._is_turbo:
            return []
        return [TURBO_NOTE]

    def shift_exponent(self, resolution: int) -> float:
        """That of Raw by the number of tokens; Turbo's is constant."""
        return TURBO_SHIFT_EXPONENT if self._is_turbo else super().shift_exponent(resolution)

    @property
    def max_tokens(self) -> int:
        """512, with those of the template behind the caption."""
        return 512

    @property
    def _prefix(self) -> int:
        """Number of the template's tokens before the caption, which the transformer never sees."""
        return int(self._pipeline.prompt_template_encode_start_idx)

    @property
    def _suffix(self) -> int:
        """Number of the template's tokens behind the caption."""
        return int(self._pipeline.prompt_template_encode_num_suffix_tokens)

    def count_tokens(self, text: str) -> int:
        """Number of tokens of a caption, with those of the template behind it."""
        text = self._pipeline.prompt_template_encode_prefix + text
        tokens = self._pipeline.tokenizer(text, verbose=False).input_ids
        return len(tokens) - self._prefix + self._suffix

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """Token ids and mask, [captions, prefix + 512]: the padding is before the suffix."""
        pipeline = self._pipeline
        texts = [pipeline.prompt_template_encode_prefix + caption for caption in captions]
        start = pipeline.tokenizer(
            texts,
            padding="max_length",
            max_length=self._prefix + self.max_tokens - self._suffix,
            truncation=True,
            return_tensors="pt",
        )
        end = pipeline.tokenizer(
            [pipeline.prompt_template_encode_suffix] * len(texts), return_tensors="pt"
        )
        ids, mask = (
            torch.cat([start[name], end[name]], dim=1) for name in ("input_ids", "attention_mask")
        )
        return {"ids": ids, "mask": mask.bool()}

    def encode_tokens(self, tokens: Tokens) -> Conditioning:
        """States of the layers behind the prefix [captions, 512, layers, D], and a mask."""
        mask = tokens["mask"]
        # Padding takes no position; the three axes differ in images alone.
        position = (mask.long().cumsum(dim=1) - 1).clamp(min=0).expand(3, -1, -1)
        states = self.text_encoders["text_encoder"](
            input_ids=tokens["ids"],
            attention_mask=mask,
            position_ids=position,
            output_hidden_states=True,
            use_cache=False,
        ).hidden_states
        layers = self._pipeline.text_encoder_select_layers
        stacked = torch.stack([states[layer] for layer in layers], dim=2)
        return {"hidden_states": stacked[:, self._prefix :], "mask": mask[:, self._prefix :]}

    def predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        crops: Tensor | None = None,
    ) -> Tensor:
        """The transformer's velocity, [N, 16, H/8, W/8]."""
        channels, height, width = noisy.shape[1:]
        states = conditioning["hidden_states"]
        grid = pad(positions(height // 2, width // 2, noisy.device), (1, 0))
        velocity = self.denoiser(
            hidden_states=pack(noisy),
            encoder_hidden_states=states,
            timestep=timesteps,
            # All of the text is at the origin.
            position_ids=pad(grid, (0, 0, states.shape[1], 0)),
            encoder_attention_mask=conditioning["mask"],
            return_dict=False,
        )[0]
        return unpack(velocity, (channels, height, width))

    def sampling_arguments(
        self, prompts: Conditioning, negative: Conditioning, guidance_scale: float
    ) -> dict[str, Any]:
        """States and masks of both, and the scale of guidance, of which 0 is none."""
        return {
            "prompt_embeds": prompts["hidden_states"],
            "prompt_embeds_mask": prompts["mask"],
            "negative_prompt_embeds": negative["hidden_states"],
            "negative_prompt_embeds_mask": negative["mask"],
            "guidance_scale": guidance_scale,
        }

    def web_ui_name(self, part: str, module: str) -> str:
        """The name of the original code, as ComfyUI reads it."""
        for ours, original in ORIGINAL_NAMES.items():
            module = module.replace(ours, original)
        return f"diffusion_model.{module}"

    def web_ui_lora(self, adapters: Sequence[Adapter]) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The original code's names; alpha is part of the weights."""
        weights = {}
        for each in adapters:
            name = self.web_ui_name(each.part, each.module)
            weights[f"{name}.lora_A.weight"] = each.down
            weights[f"{name}.lora_B.weight"] = each.up * each.scale
        return weights, {}
