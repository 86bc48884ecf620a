"""Sana: Gemma's last state behind an instruction, a 32-fold autoencoder, linear attention."""

import inspect
from pathlib import Path

from diffusers import SanaPipeline

from tests.corpus.families.facts import FamilyFacts
from tests.corpus.families.parts import Part, write_pipeline
from tests.corpus.families.tokenizers import write_gemma

FACTS = FamilyFacts(
    repository="Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers",
    license="NSCL v2-custom",
    pipeline="SanaPipeline",
    resolution=1024,
    steps=20,
    guidance=4.5,
    parameters={
        "transformer": 1_604_641_952,
        "vae": 312_250_275,
        "text_encoder": 2_614_341_888,
    },
    files={
        "transformer/diffusion_pytorch_model.safetensors": 3_209_339_048,
        "vae/diffusion_pytorch_model.safetensors": 1_249_044_836,
        "text_encoder/model-00001-of-00002.safetensors": 4_988_024_144,
        "text_encoder/model-00002-of-00002.safetensors": 240_691_624,
    },
    lora_targets=("to_k", "to_q", "to_v"),
    comfyui_prefix=None,
    call={"use_resolution_binning": False},
    same_layout=(
        "Efficient-Large-Model/SANA1.5_4.8B_1024px_diffusers",
        "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers",
        "Efficient-Large-Model/Sana_600M_1024px_diffusers",
    ),
    notes=(
        "Sana 1.0 has no qk_norm. The pipeline puts an instruction of eight lines before the prompt"
        " (complex_human_instruction) and keeps the last 300 tokens and the first. It rounds sizes"
        " to a list of its own unless use_resolution_binning is off. The VAE has no posterior: its"
        " latents are exact. Sprint models have other classes."
    ),
)

INDEX = {
    "_class_name": "SanaPipeline",
    "_diffusers_version": "0.33.0.dev0",
    "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
    "text_encoder": ["transformers", "Gemma2Model"],
    "tokenizer": ["transformers", "GemmaTokenizerFast"],
    "transformer": ["diffusers", "SanaTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderDC"],
}

SCHEDULER = {
    "_class_name": "DPMSolverMultistepScheduler",
    "_diffusers_version": "0.33.0.dev0",
    "algorithm_type": "dpmsolver++",
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "dynamic_thresholding_ratio": 0.995,
    "euler_at_final": False,
    "final_sigmas_type": "zero",
    "flow_shift": 3.0,
    "lambda_min_clipped": -float("inf"),
    "lower_order_final": True,
    "num_train_timesteps": 1000,
    "prediction_type": "flow_prediction",
    "rescale_betas_zero_snr": False,
    "sample_max_value": 1.0,
    "solver_order": 2,
    "solver_type": "midpoint",
    "steps_offset": 0,
    "thresholding": False,
    "timestep_spacing": "linspace",
    "trained_betas": None,
    "use_beta_sigmas": False,
    "use_exponential_sigmas": False,
    "use_flow_sigmas": True,
    "use_karras_sigmas": False,
    "use_lu_lambdas": False,
    "variance_type": None,
}

TRANSFORMER = {
    "_class_name": "SanaTransformer2DModel",
    "_diffusers_version": "0.33.0.dev0",
    "attention_bias": False,
    "attention_head_dim": 32,
    "caption_channels": 2304,
    "cross_attention_dim": 2240,
    "cross_attention_head_dim": 112,
    "dropout": 0.0,
    "guidance_embeds": False,
    "guidance_embeds_scale": 0.1,
    "in_channels": 32,
    "interpolation_scale": None,
    "mlp_ratio": 2.5,
    "norm_elementwise_affine": False,
    "norm_eps": 1e-06,
    "num_attention_heads": 70,
    "num_cross_attention_heads": 20,
    "num_layers": 20,
    "out_channels": 32,
    "patch_size": 1,
    "qk_norm": "rms_norm_across_heads",
    "sample_size": 32,
    "timestep_scale": 1.0,
}

BLOCKS = ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3
VAE = {
    "_class_name": "AutoencoderDC",
    "_diffusers_version": "0.33.0.dev0",
    "attention_head_dim": 32,
    "decoder_act_fns": "silu",
    "decoder_block_out_channels": [128, 256, 512, 512, 1024, 1024],
    "decoder_block_types": BLOCKS,
    "decoder_layers_per_block": [3, 3, 3, 3, 3, 3],
    "decoder_norm_types": "rms_norm",
    "decoder_qkv_multiscales": [[], [], [], [5], [5], [5]],
    "downsample_block_type": "Conv",
    "encoder_block_out_channels": [128, 256, 512, 512, 1024, 1024],
    "encoder_block_types": BLOCKS,
    "encoder_layers_per_block": [2, 2, 2, 3, 3, 3],
    "encoder_qkv_multiscales": [[], [], [], [5], [5], [5]],
    "in_channels": 3,
    "latent_channels": 32,
    "scaling_factor": 0.41407,
    "upsample_block_type": "interpolate",
}

TEXT_ENCODER = {
    "architectures": ["Gemma2Model"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": 50.0,
    "bos_token_id": 2,
    "cache_implementation": "hybrid",
    "eos_token_id": [1, 107],
    "final_logit_softcapping": 30.0,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 2304,
    "initializer_range": 0.02,
    "intermediate_size": 9216,
    "max_position_embeddings": 8192,
    "model_type": "gemma2",
    "num_attention_heads": 8,
    "num_hidden_layers": 26,
    "num_key_value_heads": 4,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.46.2",
    "use_cache": True,
    "vocab_size": 256000,
}

PARTS = {
    "transformer": Part(
        "SanaTransformer2DModel",
        TRANSFORMER,
        {
            "attention_head_dim": 8,
            "caption_channels": 16,
            "cross_attention_dim": 16,
            "cross_attention_head_dim": 8,
            "in_channels": 8,
            "num_attention_heads": 2,
            "num_cross_attention_heads": 2,
            "num_layers": 2,
            "out_channels": 8,
        },
    ),
    "vae": Part(
        "AutoencoderDC",
        VAE,
        {
            "attention_head_dim": 4,
            "decoder_block_out_channels": [4, 4, 8, 8, 8, 8],
            "decoder_layers_per_block": [1] * 6,
            "encoder_block_out_channels": [4, 4, 8, 8, 8, 8],
            "encoder_layers_per_block": [1] * 6,
            "latent_channels": 8,
        },
    ),
    "text_encoder": Part(
        "Gemma2Model",
        TEXT_ENCODER,
        {
            "head_dim": 8,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_attention_heads": 2,
            "num_hidden_layers": 3,
            "num_key_value_heads": 1,
            "query_pre_attn_scalar": 8,
            "torch_dtype": "float32",
        },
        shards=2,
    ),
}


def build(folder: Path, seed: int = 0) -> None:
    """Write a tiny random model of the family in its published layout."""
    signature = inspect.signature(SanaPipeline.__call__)
    instruction = " ".join(signature.parameters["complex_human_instruction"].default)
    vocabularies = {"text_encoder": write_gemma(folder / "tokenizer", instruction)}
    write_pipeline(folder, INDEX, PARTS, SCHEDULER, vocabularies, seed)
