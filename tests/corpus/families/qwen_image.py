"""Qwen-Image: Qwen2.5-VL's last state behind a template that is cut off, a VAE for videos."""

from pathlib import Path

from tests.corpus.families.facts import FamilyFacts
from tests.corpus.families.parts import Part, write_pipeline
from tests.corpus.families.tokenizers import write_qwen

FACTS = FamilyFacts(
    repository="Qwen/Qwen-Image-2512",
    license="apache-2.0",
    pipeline="QwenImagePipeline",
    resolution=1328,
    steps=50,
    guidance=4.0,
    parameters={
        "transformer": 20_430_401_088,
        "vae": 126_892_531,
        "text_encoder": 8_292_166_656,
    },
    files={
        "transformer/diffusion_pytorch_model-00001-of-00009.safetensors": 4_989_364_312,
        "transformer/diffusion_pytorch_model-00002-of-00009.safetensors": 4_984_214_160,
        "transformer/diffusion_pytorch_model-00003-of-00009.safetensors": 4_946_470_000,
        "transformer/diffusion_pytorch_model-00004-of-00009.safetensors": 4_984_213_736,
        "transformer/diffusion_pytorch_model-00005-of-00009.safetensors": 4_946_471_896,
        "transformer/diffusion_pytorch_model-00006-of-00009.safetensors": 4_946_451_560,
        "transformer/diffusion_pytorch_model-00007-of-00009.safetensors": 4_908_690_520,
        "transformer/diffusion_pytorch_model-00008-of-00009.safetensors": 4_984_232_856,
        "transformer/diffusion_pytorch_model-00009-of-00009.safetensors": 1_170_918_840,
        "vae/diffusion_pytorch_model.safetensors": 253_806_966,
        "text_encoder/model-00001-of-00004.safetensors": 4_968_243_304,
        "text_encoder/model-00002-of-00004.safetensors": 4_991_495_816,
        "text_encoder/model-00003-of-00004.safetensors": 4_932_751_040,
        "text_encoder/model-00004-of-00004.safetensors": 1_691_924_384,
    },
    lora_targets=("to_k", "to_q", "to_v", "to_out.0"),
    kohya_prefixes=("lora_unet_",),
    comfyui_prefix="diffusion_model.",
    true_cfg=True,
    same_layout=("Qwen/Qwen-Image",),
    notes=(
        "Guidance is true_cfg_scale with a negative prompt, rescaled to the norm of the guided"
        " prediction; guidance_scale is for distilled models, of which there are none. Module names"
        " are the same in diffusers, kohya's musubi-tuner and ComfyUI. Edit, layered and control"
        " models have other pipeline classes."
    ),
)

INDEX = {
    "_class_name": "QwenImagePipeline",
    "_diffusers_version": "0.34.0.dev0",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen2_5_VLForConditionalGeneration"],
    "tokenizer": ["transformers", "Qwen2Tokenizer"],
    "transformer": ["diffusers", "QwenImageTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKLQwenImage"],
}

SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "_diffusers_version": "0.34.0.dev0",
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "invert_sigmas": False,
    "max_image_seq_len": 8192,
    "max_shift": 0.9,
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "shift_terminal": 0.02,
    "stochastic_sampling": False,
    "time_shift_type": "exponential",
    "use_beta_sigmas": False,
    "use_dynamic_shifting": True,
    "use_exponential_sigmas": False,
    "use_karras_sigmas": False,
}

TRANSFORMER = {
    "_class_name": "QwenImageTransformer2DModel",
    "_diffusers_version": "0.34.0.dev0",
    "attention_head_dim": 128,
    "axes_dims_rope": [16, 56, 56],
    "guidance_embeds": False,
    "in_channels": 64,
    "joint_attention_dim": 3584,
    "num_attention_heads": 24,
    "num_layers": 60,
    "out_channels": 16,
    "patch_size": 2,
}

VAE = {
    "_class_name": "AutoencoderKLQwenImage",
    "_diffusers_version": "0.34.0.dev0",
    "attn_scales": [],
    "base_dim": 96,
    "dim_mult": [1, 2, 4, 4],
    "dropout": 0.0,
    "latents_mean": [
        -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
        0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
    ],
    "latents_std": [
        2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
        3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.916,
    ],
    "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
    "z_dim": 16,
}  # fmt: skip

TINY_VAE = {"base_dim": 4, "num_res_blocks": 1}

LANGUAGE = {
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "max_position_embeddings": 128000,
    "max_window_layers": 28,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {"mrope_section": [16, 24, 24], "rope_type": "default", "type": "default"},
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 152064,
}

TEXT_ENCODER = {
    **LANGUAGE,
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "image_token_id": 151655,
    "model_type": "qwen2_5_vl",
    "text_config": {
        **LANGUAGE,
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "image_token_id": None,
        "layer_types": ["full_attention"] * 28,
        "model_type": "qwen2_5_vl_text",
        "video_token_id": None,
        "vision_end_token_id": 151653,
        "vision_start_token_id": 151652,
        "vision_token_id": 151654,
    },
    "tie_word_embeddings": False,
    "transformers_version": "4.53.1",
    "video_token_id": 151656,
    "vision_config": {
        "depth": 32,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "hidden_act": "silu",
        "hidden_size": 1280,
        "in_channels": 3,
        "in_chans": 3,
        "initializer_range": 0.02,
        "intermediate_size": 3420,
        "model_type": "qwen2_5_vl",
        "num_heads": 16,
        "out_hidden_size": 3584,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "temporal_patch_size": 2,
        "tokens_per_second": 2,
        "torch_dtype": "bfloat16",
        "window_size": 112,
    },
    "vision_end_token_id": 151653,
    "vision_start_token_id": 151652,
    "vision_token_id": 151654,
}

TINY_LANGUAGE = {
    "bos_token_id": None,
    "eos_token_id": None,
    "hidden_size": 16,
    "intermediate_size": 32,
    "max_window_layers": 3,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "num_key_value_heads": 1,
    "rope_scaling": {"mrope_section": [2, 1, 1]},
    "torch_dtype": "float32",
}

PARTS = {
    "transformer": Part(
        "QwenImageTransformer2DModel",
        TRANSFORMER,
        {
            "attention_head_dim": 8,
            "axes_dims_rope": [2, 2, 4],
            "joint_attention_dim": 16,
            "num_attention_heads": 2,
            "num_layers": 2,
        },
        shards=9,
    ),
    "vae": Part("AutoencoderKLQwenImage", VAE, TINY_VAE),
    "text_encoder": Part(
        "Qwen2_5_VLForConditionalGeneration",
        TEXT_ENCODER,
        {
            **TINY_LANGUAGE,
            "text_config": {**TINY_LANGUAGE, "layer_types": ["full_attention"] * 3},
            "vision_config": {
                "depth": 2,
                "fullatt_block_indexes": [1],
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_heads": 2,
                "out_hidden_size": 16,
                "patch_size": 4,
                "spatial_patch_size": 4,
                "torch_dtype": "float32",
            },
        },
        shards=4,
    ),
}


def build(folder: Path, seed: int = 0) -> None:
    """Write a tiny random model of the family in its published layout."""
    vocabularies = {"text_encoder": write_qwen(folder / "tokenizer", files=True, fast=False)}
    write_pipeline(folder, INDEX, PARTS, SCHEDULER, vocabularies, seed)
