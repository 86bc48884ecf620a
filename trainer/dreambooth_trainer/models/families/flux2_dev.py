"""FLUX.2 dev: three layers of Mistral 3 as text, guidance as an input."""

from collections.abc import Sequence
from typing import Any

from diffusers import Flux2Pipeline
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE
from transformers import AutoTokenizer, Mistral3ForConditionalGeneration

from dreambooth_trainer.models.defaults import ModelDefaults
from dreambooth_trainer.models.families.flux2 import LORA_TARGETS, TRAINING_GUIDANCE, Flux2
from dreambooth_trainer.models.prompts import Conditioning, Tokens
from dreambooth_trainer.models.published import (
    BLACK_FOREST_LABS_TERMS,
    NO_COMMERCIAL_USE,
    GpuMemory,
    License,
    PublishedModel,
)

IMAGE = "[IMG]"
"""The place of an image in a prompt, which the pipeline removes."""


class Flux2Dev(Flux2):
    """FLUX.2 dev (Black Forest Labs 2025)."""

    name = "FLUX.2 dev"
    published = (
        PublishedModel(
            "hf://black-forest-labs/FLUX.2-dev",
            License("flux-dev-non-commercial-license", BLACK_FOREST_LABS_TERMS, NO_COMMERCIAL_USE),
            32.2,
            resolution=1024,
            steps=50,
            guidance_scale=4.0,
            is_gated=True,
            memory=GpuMemory(
                218.6,
                685.2,
                106.4,
                605.3,
                qlora_checkpointed=43.5,
                lora_int8=77.1,
                lora_nf4=64.3,
                lora_nf4_text=34.3,
                lora_nf4_small=34.3,
                lora_nf4_offload=18.9,
                full_sharded=85.8,
            ),
        ),
    )
    pipeline_class = Flux2Pipeline
    modules = {**Flux2.modules, "text_encoder": Mistral3ForConditionalGeneration}
    # The pipeline has a processor of texts and images, which needs torchvision; the tokenizer in
    # the same folder makes the same tokens of text.
    tokenizers = {"tokenizer": AutoTokenizer}
    text_layers = (10, 20, 30)
    reads_images = True
    unguided_scale = TRAINING_GUIDANCE

    @property
    def defaults(self) -> ModelDefaults:
        """Those of the model card."""
        return ModelDefaults(
            resolution=self.native_resolution,
            sampler="euler",
            class_image_steps=28,
            sample_steps=50,
            guidance_scale=4.0,
            lora_targets=LORA_TARGETS,
            samplers=("euler",),
            takes_negative_prompt=False,
        )

    def count_tokens(self, text: str) -> int:
        """Number of tokens of a caption, with those of the chat template."""
        return len(self._apply_template([text])["input_ids"][0])

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """Token ids and mask, [captions, 512], of captions as messages after the system's."""
        tokens = self._apply_template(
            captions,
            padding="max_length",
            max_length=self.max_tokens,
            truncation=True,
            return_tensors="pt",
        )
        return {"ids": tokens["input_ids"], "mask": tokens["attention_mask"]}

    def _apply_template(self, captions: Sequence[str], **options: Any) -> Any:
        messages = [
            [_message("system", SYSTEM_MESSAGE), _message("user", caption.replace(IMAGE, ""))]
            for caption in captions
        ]
        return self._pipeline.tokenizer.apply_chat_template(
            messages, add_generation_prompt=False, tokenize=True, return_dict=True, **options
        )

    @property
    def language_model(self) -> Any:
        """Mistral 3, without its vision tower."""
        encoder: Any = self.text_encoders["text_encoder"]
        return encoder.model.language_model

    def sampling_arguments(
        self, prompts: Conditioning, negative: Conditioning, guidance_scale: float
    ) -> dict[str, Any]:
        """The embedding, and guidance as an input of the model."""
        return {"prompt_embeds": prompts["hidden_states"], "guidance_scale": guidance_scale}


def _message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}
