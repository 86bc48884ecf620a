"""Qwen-Image 2.1: Qwen3-VL's last layer before its norm, block-causal, transparent images."""

import inspect
from pathlib import Path

from diffusers import AutoencoderKLQwenImage21

from tests.corpus.families import krea2, qwen_image
from tests.corpus.families.facts import FamilyFacts
from tests.corpus.families.parts import Part, merge, write_json, write_pipeline
from tests.corpus.families.tokenizers import write_qwen

FACTS = FamilyFacts(
    repository="Qwen/Qwen-Image-2.1",
    license="qwen-research",
    pipeline="QwenImage21Pipeline",
    resolution=2048,
    steps=40,
    guidance=4.0,
    parameters={
        "transformer": 7_115_124_736,
        "vae": 337_740_404,
        "text_encoder": 8_767_123_696,
    },
    files={
        "transformer/diffusion_pytorch_model-00001-of-00002.safetensors": None,
        "transformer/diffusion_pytorch_model-00002-of-00002.safetensors": None,
        "vae/diffusion_pytorch_model.safetensors": None,
        "text_encoder/model-00001-of-00004.safetensors": None,
        "text_encoder/model-00002-of-00004.safetensors": None,
        "text_encoder/model-00003-of-00004.safetensors": None,
        "text_encoder/model-00004-of-00004.safetensors": None,
    },
    lora_targets=("to_k", "to_q", "to_v", "to_out.0"),
    comfyui_prefix="diffusion_model.",
    true_cfg=True,
    channels=4,
    batch_matters=True,
    same_layout=("Qwen/Qwen-Image-2.1-Turbo",),
    notes=(
        "No part is that of Qwen-Image. Images have four channels, the fourth is opacity. Text is"
        " padded on the left in the encoder and on the right in the transformer. Turbo distils"
        " steps: sample_sigmas in model_index.json. The processor of the prompts needs torchvision;"
        " for text alone, the tokenizer beside it gives the same tokens."
    ),
)

INDEX = {
    "_class_name": "QwenImage21Pipeline",
    "_diffusers_version": "0.37.0.dev0",
    "processor": ["transformers", "Qwen3VLProcessor"],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen3VLForConditionalGeneration"],
    "transformer": ["diffusers", "QwenImage21Transformer2DModel"],
    "vae": ["diffusers", "AutoencoderKLQwenImage21"],
}

SCHEDULER = {**qwen_image.SCHEDULER, "_diffusers_version": "0.37.0.dev0"}

TRANSFORMER = {
    "_class_name": "QwenImage21Transformer2DModel",
    "_diffusers_version": "0.37.0.dev0",
    "attention_head_dim": 128,
    "axes_dims_rope": [16, 56, 56],
    "causal_condition": True,
    "context_in_dim": 4096,
    "eps": 1e-06,
    "in_channels": 64,
    "mlp_ratio": 3,
    "num_attention_heads": 32,
    "num_layers": 32,
    "out_channels": 64,
    "patch_size": 1,
}

_defaults = inspect.signature(AutoencoderKLQwenImage21.__init__).parameters
VAE = {
    "_class_name": "AutoencoderKLQwenImage21",
    "_diffusers_version": "0.37.0.dev0",
    "attn_scales": [],
    "base_dim": 96,
    "decoder_base_dim": 144,
    "dim_mult": [1, 2, 4, 8, 8],
    "dropout": 0.0,
    "in_channels": 4,
    "is_residual": True,
    "latents_mean": _defaults["latents_mean"].default,  # 64 numbers
    "latents_std": _defaults["latents_std"].default,
    "num_res_blocks": 2,
    "out_channels": 4,
    "patch_size": None,
    "scale_factor_spatial": 16,
    "scale_factor_temporal": 8,
    "temperal_downsample": [False, True, True, True],
    "z_dim": 64,
}

TEXT_ENCODER = merge(
    krea2.TEXT_ENCODER,
    {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "text_config": {
            "hidden_size": 4096,
            "intermediate_size": 12288,
        },
        "tie_word_embeddings": False,
        "transformers_version": "4.57.1",
        "vision_config": {
            "deepstack_visual_indexes": [8, 16, 24],
            "depth": 27,
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "out_hidden_size": 4096,
        },
    },
)

PARTS = {
    "transformer": Part(
        "QwenImage21Transformer2DModel",
        TRANSFORMER,
        {
            "attention_head_dim": 8,
            "axes_dims_rope": [2, 2, 4],
            "context_in_dim": 16,
            "in_channels": 8,
            "num_attention_heads": 2,
            "num_layers": 2,
            "out_channels": 8,
        },
        shards=2,
    ),
    "vae": Part(
        "AutoencoderKLQwenImage21",
        VAE,
        {
            "base_dim": 2,
            "decoder_base_dim": 3,
            "latents_mean": VAE["latents_mean"][:8],
            "latents_std": VAE["latents_std"][:8],
            "num_res_blocks": 1,
            "z_dim": 8,
        },
    ),
    "text_encoder": Part(
        "Qwen3VLForConditionalGeneration", TEXT_ENCODER, krea2.TINY_TEXT_ENCODER, shards=4
    ),
}


def build(folder: Path, seed: int = 0) -> None:
    """Write a tiny random model of the family in its published layout."""
    vocabularies = {"text_encoder": write_qwen(folder / "processor", files=True)}
    images = {
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "image_std": [0.5, 0.5, 0.5],
        "merge_size": 2,
        "patch_size": 16,
        "processor_class": "Qwen3VLProcessor",
        "size": {"longest_edge": 16777216, "shortest_edge": 65536},
        "temporal_patch_size": 2,
    }
    write_json(folder / "processor" / "preprocessor_config.json", images)
    videos = {**images, "video_processor_type": "Qwen3VLVideoProcessor"}
    write_json(folder / "processor" / "video_preprocessor_config.json", videos)
    write_pipeline(folder, INDEX, PARTS, SCHEDULER, vocabularies, seed)
