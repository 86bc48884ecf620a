"""Stable Diffusion XL: two CLIP text encoders, and a UNet that knows sizes and crops."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from dreambooth_trainer.models.adapters.exported import Adapter
from dreambooth_trainer.models.bases.ddpm import SAMPLERS, DDPMFamily
from dreambooth_trainer.models.clip import text_model
from dreambooth_trainer.models.defaults import ModelDefaults
from dreambooth_trainer.models.family import Config, ReadWeights
from dreambooth_trainer.models.names import compvis
from dreambooth_trainer.models.names.kohya import kohya_lora
from dreambooth_trainer.models.prompts import Conditioning, Tokens
from dreambooth_trainer.models.published import GpuMemory, License, PublishedModel
from dreambooth_trainer.models.tokens.names import expand_captions

DEFAULTS = ModelDefaults(
    resolution=1024,
    sampler="euler",
    class_image_steps=25,
    sample_steps=30,
    guidance_scale=5.0,
    lora_targets=("to_q", "to_k", "to_v", "to_out.0"),
    samplers=tuple(SAMPLERS),
)
SDXL_LICENSE = License(
    "openrail++",
    "https://github.com/Stability-AI/generative-models/blob/main/model_licenses/LICENSE-SDXL1.0",
    is_listed=True,
)
DISTILLED_STEPS = 4
"""Sampling steps of Turbo and Lightning, which are not guided."""
FEW_STEP_SCHEDULERS = ("LCMScheduler", "TCDScheduler")
TIME_IDS = 6
"""Numbers that the UNet gets besides the text: original size, crop, size of the result."""
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")

KOHYA_PREFIXES = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
CLIP_PREFIX = "conditioner.embedders.0.transformer."
OPEN_CLIP_PREFIX = "conditioner.embedders.1.model."
V_PREDICTION_MARK, NO_SIGNAL_MARK = "v_pred", "ztsnr"
"""Empty tensors by which ComfyUI tells what a single file predicts, and its noise schedule."""


class StableDiffusionXL(DDPMFamily):
    """SDXL (Podell et al. 2023) and its fine-tunes."""

    name = "Stable Diffusion XL"
    published = (
        PublishedModel(
            "hf://stabilityai/stable-diffusion-xl-base-1.0",
            SDXL_LICENSE,
            2.6,
            resolution=1024,
            steps=30,
            guidance_scale=5.0,
            memory=GpuMemory(21.1, 56.0, 9.6, 50.1, 18.1, 6.7, lora_int8=7.6, lora_nf4=6.7),
        ),
    )
    pipeline_class = StableDiffusionXLPipeline
    pipeline_settings = ("force_zeros_for_empty_prompt",)
    other_pipelines = {
        "StableDiffusionXLImg2ImgPipeline": "refining images",
        "StableDiffusionXLInpaintPipeline": "inpainting",
        "StableDiffusionXLInstructPix2PixPipeline": "editing",
        "StableDiffusionXLControlNetPipeline": "ControlNet",
        "StableDiffusionXLAdapterPipeline": "T2I-Adapter",
    }
    modules = {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
    }
    tokenizers = {"tokenizer": CLIPTokenizer, "tokenizer_2": CLIPTokenizer}
    trains_text = True
    learns_tokens = True
    export_dtype = torch.float16
    card_tag = "stable-diffusion-xl"

    @classmethod
    def assemble(cls, parts: Mapping[str, Any]) -> Any:
        """A pipeline without watermark."""
        return StableDiffusionXLPipeline(**parts, add_watermarker=False)

    @classmethod
    def find_mismatches(cls, configs: Mapping[str, Config]) -> Iterator[str]:
        """Different widths of text or latents; the refiner, inpainting and consistency models."""
        unet, vae, *texts = (configs[part] for part in cls.modules)
        if not isinstance(unet.get("sample_size"), int):
            yield "unet/config.json: sample_size is not an integer; copy it again"
        if unet.get("in_channels") != vae.get("latent_channels"):
            yield (
                f"its UNet reads {unet.get('in_channels')} channels and its VAE makes"
                f" {vae.get('latent_channels')}; inpainting and editing models cannot be trained"
            )
        width = _total(text.get("hidden_size") for text in texts)
        if unet.get("cross_attention_dim") != width:
            yield (
                f"its UNet expects text of width {unet.get('cross_attention_dim')} and its text"
                f" encoders make {width}; the refiner cannot be trained"
            )
        sizes = [unet.get("addition_time_embed_dim")] * TIME_IDS
        width = _total([texts[1].get("projection_dim"), *sizes])
        if unet.get("projection_class_embeddings_input_dim") != width:
            yield (
                "its UNet expects"
                f" {unet.get('projection_class_embeddings_input_dim')} numbers of pooled text and"
                f" sizes, which are {width}; models with aesthetic scores cannot be trained"
            )
        if unet.get("time_cond_proj_dim") is not None:
            yield (
                "its UNet takes the guidance scale as an input, as consistency models (LCM) do,"
                " which cannot be trained; use the model that it was distilled from"
            )

    @property
    def defaults(self) -> ModelDefaults:
        """Those of SDXL, or of Turbo, with what the model's own configuration says."""
        defaults = replace(DEFAULTS, resolution=self.native_resolution, samplers=self.samplers)
        if not self._is_distilled:
            return defaults
        steps = DISTILLED_STEPS
        return replace(defaults, class_image_steps=steps, sample_steps=steps, guidance_scale=1.0)

    @property
    def _is_distilled(self) -> bool:
        """Whether the scheduler is that of a model for a few steps: Turbo, Lightning or LCM.

        Nothing else tells. Steps that start at the last timestep are also for models whose schedule
        ends in noise alone.
        """
        scheduler = self._pipeline.scheduler
        starts_at_end = scheduler.config.get("timestep_spacing") == "trailing"
        of_few_steps = type(scheduler).__name__ in FEW_STEP_SCHEDULERS
        return of_few_steps or (
            starts_at_end and self.has_signal_at_end and self.prediction_type == "epsilon"
        )

    @property
    def training_notes(self) -> list[str]:
        """That training undoes a distillation."""
        if not self._is_distilled:
            return []
        return [
            "its scheduler is that of a model that was distilled to a few steps (Turbo, Lightning"
            " or LCM). Training wears the distillation off: the longer it lasts, the more steps and"
            " guidance the result needs. Train the model that it was distilled from, and load the"
            " LoRA into this one"
        ]

    @property
    def max_tokens(self) -> int:
        """77, with start and end."""
        return int(self._pipeline.tokenizer.model_max_length)

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """Token ids [captions, 77] for each text encoder, and which captions are empty."""
        tokens = {
            part: tokenizer(
                expand_captions(captions, tokenizer),
                padding="max_length",
                truncation=True,
                max_length=self.max_tokens,
                return_tensors="pt",
            ).input_ids
            for part, tokenizer in zip(
                TEXT_ENCODERS,
                (self._pipeline.tokenizer, self._pipeline.tokenizer_2),
                strict=True,
            )
        }
        return {**tokens, "is_empty": torch.tensor([not caption for caption in captions])}

    def encode_tokens(self, tokens: Tokens) -> Conditioning:
        """Hidden states [captions, 77, D] and pooled embedding [captions, D'] of captions.

        The states before the last layer, or before `clip_skip` layers, of both encoders side by
        side; and the second encoder's projection. Zeros for an empty caption where the model was
        trained so, as SDXL was.
        """
        outputs = [
            encoder(tokens[part], output_hidden_states=True)
            for part, encoder in self.text_encoders.items()
        ]
        states = torch.cat(
            [output.hidden_states[-1 - self.clip_skip] for output in outputs], dim=-1
        )
        pooled = outputs[-1].text_embeds
        if self._pipeline.config.force_zeros_for_empty_prompt:
            is_empty = tokens["is_empty"]
            states = states.masked_fill(is_empty[:, None, None], 0.0)
            pooled = pooled.masked_fill(is_empty[:, None], 0.0)
        return {"hidden_states": states, "pooled": pooled}

    @property
    def max_clip_skip(self) -> int:
        """The first layer of both encoders."""
        encoders = (self._pipeline.text_encoder, self._pipeline.text_encoder_2)
        return min(int(each.config.num_hidden_layers) for each in encoders) - 1

    def unused_modules(self, part: str) -> Sequence[nn.Module]:
        """The first encoder's last layers: nothing but its hidden states before them is read."""
        if part != "text_encoder":
            return ()
        model = text_model(self.text_encoders[part])
        return *model.encoder.layers[-self.clip_skip :], model.final_layer_norm

    def predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        crops: Tensor | None = None,
    ) -> Tensor:
        """The UNet's prediction, [N, 4, H/8, W/8] (sizes: Podell et al. 2023, section 2.2)."""
        height, width = (cells * self.vae_factor for cells in noisy.shape[2:])
        if crops is None:
            crops = torch.tensor([height, width, 0, 0], device=noisy.device).expand(len(noisy), -1)
        # Filled on the device: a copy would make the host wait.
        sizes = [crops.new_full((len(crops), 1), side) for side in (height, width)]
        time_ids = torch.cat([crops, *sizes], dim=1)
        prediction: Tensor = self.denoiser(
            noisy,
            timesteps,
            conditioning["hidden_states"],
            added_cond_kwargs={"text_embeds": conditioning["pooled"], "time_ids": time_ids},
            return_dict=False,
        )[0]
        return prediction

    def sampling_arguments(
        self, prompts: Conditioning, negative: Conditioning, guidance_scale: float
    ) -> dict[str, Any]:
        """Embeddings of both, and the scale of classifier-free guidance."""
        return {
            "prompt_embeds": prompts["hidden_states"],
            "pooled_prompt_embeds": prompts["pooled"],
            "negative_prompt_embeds": negative["hidden_states"],
            "negative_pooled_prompt_embeds": negative["pooled"],
            "guidance_scale": guidance_scale,
        }

    def web_ui_name(self, part: str, module: str) -> str:
        """The name of sd-scripts, whose UNet has the original names."""
        if part == "unet":
            layers = self._pipeline.unet.config.layers_per_block
            weight = compvis.unet_name(f"{module}.weight", layers, self._attended_blocks)
            module = weight.removesuffix(".weight")
        return f"{KOHYA_PREFIXES[part]}_{module.replace('.', '_')}"

    @cached_property
    def _attended_blocks(self) -> set[str]:
        """Of the UNet; once, as a LoRA asks for a thousand names."""
        return compvis.attended_blocks(name for name, _ in self._pipeline.unet.named_parameters())

    def web_ui_lora(self, adapters: Sequence[Adapter]) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Names of sd-scripts."""
        header = {"ss_v2": "False", "ss_base_model_version": "sdxl_base_v1-0"}
        return kohya_lora(adapters, self.web_ui_name, **header)

    def single_file(self, read: ReadWeights) -> dict[str, Tensor]:
        """The layout of Stability AI's generative-models."""
        unet, vae = self._pipeline.unet.config, self._pipeline.vae.config
        marks = []
        if self.prediction_type == "v_prediction":
            marks = [V_PREDICTION_MARK, *([] if self.has_signal_at_end else [NO_SIGNAL_MARK])]
        return {
            **compvis.unet_weights(read("unet"), unet.layers_per_block),
            **compvis.vae_weights(read("vae"), len(vae.block_out_channels)),
            **compvis.clip_weights(read("text_encoder"), CLIP_PREFIX),
            **compvis.open_clip_weights(read("text_encoder_2"), OPEN_CLIP_PREFIX),
            **{mark: torch.zeros(0) for mark in marks},
        }


def _total(numbers: Iterable[Any]) -> int | None:
    """The sum; None if one is no integer, as in a damaged configuration."""
    found = list(numbers)
    return sum(found) if all(isinstance(each, int) for each in found) else None
