"""Krea 2: a stack of Qwen3-VL's layers, fused inside the transformer; Qwen-Image's VAE."""

from pathlib import Path

from tests.corpus.families import qwen_image
from tests.corpus.families.facts import FamilyFacts
from tests.corpus.families.parts import Part, write_pipeline
from tests.corpus.families.tokenizers import write_qwen

FACTS = FamilyFacts(
    repository="krea/Krea-2-Raw",
    license="krea-2-community-license",
    pipeline="Krea2Pipeline",
    resolution=1024,
    steps=28,
    guidance=4.5,
    parameters={
        "transformer": 12_820_073_036,
        "vae": 126_892_531,
        "text_encoder": 4_437_815_808,
    },
    files={
        "transformer/diffusion_pytorch_model-00001-of-00003.safetensors": None,
        "transformer/diffusion_pytorch_model-00002-of-00003.safetensors": None,
        "transformer/diffusion_pytorch_model-00003-of-00003.safetensors": None,
        "vae/diffusion_pytorch_model.safetensors": None,
        "text_encoder/model.safetensors": None,
    },
    others={"raw.safetensors": 26_283_332_608},
    lora_targets=(
        "img_in",
        "final_layer.linear",
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
        "to_gate",
        "ff.up",
        "ff.down",
        "text_fusion.projector",
        "txt_in.linear_1",
        "txt_in.linear_2",
        "time_embed.linear_1",
        "time_embed.linear_2",
        "time_mod_proj",
    ),
    comfyui_prefix="diffusion_model.",
    same_layout=("krea/Krea-2-Turbo",),
    notes=(
        "Adapters are trained on Raw and used with Turbo, which distils guidance and steps"
        " (is_distilled in model_index.json: a fixed mu of 1.15; 8 steps, guidance 0). Guidance is"
        " counted from 0: the prediction is p + g (p - n). ComfyUI's names are those of the"
        " original model (blocks, wq, wk, wv, wo, txtfusion). The scheduler has the values that"
        " diffusers' pipeline documents; the sizes of the shards could not be looked up."
    ),
)

INDEX = {
    "_class_name": "Krea2Pipeline",
    "_diffusers_version": "0.39.0.dev0",
    "is_distilled": False,
    "patch_size": 2,
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen3VLModel"],
    "text_encoder_select_layers": [2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 32, 35],
    "tokenizer": ["transformers", "Qwen2Tokenizer"],
    "transformer": ["diffusers", "Krea2Transformer2DModel"],
    "vae": ["diffusers", "AutoencoderKLQwenImage"],
}
TINY_INDEX = {"text_encoder_select_layers": [1, 2, 4]}

SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "_diffusers_version": "0.39.0.dev0",
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "invert_sigmas": False,
    "max_image_seq_len": 6400,
    "max_shift": 1.15,
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "shift_terminal": None,
    "stochastic_sampling": False,
    "time_shift_type": "exponential",
    "use_beta_sigmas": False,
    "use_dynamic_shifting": True,
    "use_exponential_sigmas": False,
    "use_karras_sigmas": False,
}

TRANSFORMER = {
    "_class_name": "Krea2Transformer2DModel",
    "_diffusers_version": "0.39.0.dev0",
    "attention_head_dim": 128,
    "axes_dims_rope": [32, 48, 48],
    "in_channels": 64,
    "intermediate_size": 16384,
    "norm_eps": 1e-05,
    "num_attention_heads": 48,
    "num_key_value_heads": 12,
    "num_layers": 28,
    "num_layerwise_text_blocks": 2,
    "num_refiner_text_blocks": 2,
    "num_text_layers": 12,
    "rope_theta": 1000.0,
    "text_hidden_dim": 2560,
    "text_intermediate_size": 6912,
    "text_num_attention_heads": 20,
    "text_num_key_value_heads": 20,
    "timestep_embed_dim": 256,
}

VAE = {**qwen_image.VAE, "_diffusers_version": "0.39.0.dev0"}

TEXT_ENCODER = {
    "architectures": ["Qwen3VLModel"],
    "dtype": "bfloat16",
    "image_token_id": 151655,
    "model_type": "qwen3_vl",
    "text_config": {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "dtype": "bfloat16",
        "eos_token_id": 151645,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 2560,
        "initializer_range": 0.02,
        "intermediate_size": 9728,
        "max_position_embeddings": 262144,
        "model_type": "qwen3_vl_text",
        "num_attention_heads": 32,
        "num_hidden_layers": 36,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-06,
        "rope_parameters": {
            "mrope_interleaved": True,
            "mrope_section": [24, 20, 20],
            "rope_theta": 5000000,
            "rope_type": "default",
        },
        "use_cache": True,
        "vocab_size": 151936,
    },
    "tie_word_embeddings": True,
    "transformers_version": "5.0.0",
    "video_token_id": 151656,
    "vision_config": {
        "deepstack_visual_indexes": [5, 11, 17],
        "depth": 24,
        "dtype": "bfloat16",
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 1024,
        "in_channels": 3,
        "initializer_range": 0.02,
        "intermediate_size": 4096,
        "model_type": "qwen3_vl",
        "num_heads": 16,
        "num_position_embeddings": 2304,
        "out_hidden_size": 2560,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
    "vision_end_token_id": 151653,
    "vision_start_token_id": 151652,
}

TINY_TEXT_ENCODER = {
    "dtype": "float32",
    "text_config": {
        "bos_token_id": None,
        "dtype": "float32",
        "eos_token_id": None,
        "head_dim": 8,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": 5,
        "num_key_value_heads": 1,
        "rope_parameters": {"mrope_section": [2, 1, 1]},
    },
    "vision_config": {
        "deepstack_visual_indexes": [0],
        "depth": 2,
        "dtype": "float32",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_heads": 2,
        "num_position_embeddings": 16,
        "out_hidden_size": 16,
        "patch_size": 4,
    },
}

PARTS = {
    "transformer": Part(
        "Krea2Transformer2DModel",
        TRANSFORMER,
        {
            "attention_head_dim": 8,
            "axes_dims_rope": [2, 2, 4],
            "intermediate_size": 32,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "num_layers": 2,
            "num_text_layers": 3,
            "text_hidden_dim": 16,
            "text_intermediate_size": 32,
            "text_num_attention_heads": 2,
            "text_num_key_value_heads": 2,
        },
        shards=3,
    ),
    "vae": Part("AutoencoderKLQwenImage", VAE, qwen_image.TINY_VAE),
    "text_encoder": Part("Qwen3VLModel", TEXT_ENCODER, TINY_TEXT_ENCODER),
}


def build(folder: Path, seed: int = 0) -> None:
    """Write a tiny random model of the family in its published layout."""
    vocabularies = {"text_encoder": write_qwen(folder / "tokenizer", files=True)}
    write_pipeline(folder, {**INDEX, **TINY_INDEX}, PARTS, SCHEDULER, vocabularies, seed)
