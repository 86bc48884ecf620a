"""FLUX.2 klein: three of Qwen3's layers, packed latents normalized by a batch norm's statistics."""

from pathlib import Path

from tests.corpus.families.facts import FamilyFacts
from tests.corpus.families.parts import Part, write_pipeline
from tests.corpus.families.tokenizers import write_qwen
from tests.corpus.families.z_image import QWEN3, TINY_QWEN3

FACTS = FamilyFacts(
    repository="black-forest-labs/FLUX.2-klein-base-4B",
    license="apache-2.0",
    pipeline="Flux2KleinPipeline",
    resolution=1024,
    steps=50,
    guidance=4.0,
    parameters={
        "transformer": 3_875_544_576,
        "vae": 84_046_115,
        "text_encoder": 4_022_468_096,
    },
    files={
        "transformer/diffusion_pytorch_model.safetensors": 7_751_109_744,
        "vae/diffusion_pytorch_model.safetensors": 168_120_878,
        "text_encoder/model-00001-of-00002.safetensors": 4_967_215_360,
        "text_encoder/model-00002-of-00002.safetensors": 3_077_766_632,
    },
    others={
        "flux-2-klein-base-4b.safetensors": 7_751_105_712,
        "tokenizer/tokenizer.json": 11_422_654,
    },
    lora_targets=(
        "to_k",
        "to_q",
        "to_v",
        "to_out.0",
        "to_qkv_mlp_proj",
        "single_transformer_blocks.*.attn.to_out",
    ),
    kohya_prefixes=("lora_unet_",),
    comfyui_prefix="diffusion_model.",
    same_layout=(
        "black-forest-labs/FLUX.2-klein-4B",
        "black-forest-labs/FLUX.2-klein-base-9B",
        "black-forest-labs/FLUX.2-klein-9B",
    ),
    notes=(
        "9B: 8 and 24 layers, 32 heads, Qwen3-8B whose output layer is not tied, license"
        " flux-non-commercial-license. The repositories without base distil guidance and steps"
        " (is_distilled in model_index.json): 4 steps, guidance 1, which the pipeline ignores;"
        " adapters are trained on base and used with both. The original names fuse q, k and v in"
        " double blocks."
    ),
)

INDEX = {
    "_class_name": "Flux2KleinPipeline",
    "_diffusers_version": "0.37.0.dev0",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen3ForCausalLM"],
    "tokenizer": ["transformers", "Qwen2TokenizerFast"],
    "transformer": ["diffusers", "Flux2Transformer2DModel"],
    "vae": ["diffusers", "AutoencoderKLFlux2"],
}

SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "_diffusers_version": "0.37.0.dev0",
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "invert_sigmas": False,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "shift_terminal": None,
    "stochastic_sampling": False,
    "time_shift_type": "exponential",
    "use_beta_sigmas": False,
    "use_dynamic_shifting": True,
    "use_exponential_sigmas": False,
    "use_karras_sigmas": False,
}

TRANSFORMER = {
    "_class_name": "Flux2Transformer2DModel",
    "_diffusers_version": "0.37.0.dev0",
    "attention_head_dim": 128,
    "axes_dims_rope": [32, 32, 32, 32],
    "eps": 1e-06,
    "guidance_embeds": False,
    "in_channels": 128,
    "joint_attention_dim": 7680,
    "mlp_ratio": 3.0,
    "num_attention_heads": 24,
    "num_layers": 5,
    "num_single_layers": 20,
    "out_channels": None,
    "patch_size": 1,
    "rope_theta": 2000,
    "timestep_guidance_channels": 256,
}

TINY_TRANSFORMER = {
    "attention_head_dim": 8,
    "axes_dims_rope": [2, 2, 2, 2],
    "joint_attention_dim": 48,
    "num_attention_heads": 2,
    "num_layers": 2,
    "num_single_layers": 2,
}

VAE = {
    "_class_name": "AutoencoderKLFlux2",
    "_diffusers_version": "0.37.0.dev0",
    "_name_or_path": "black-forest-labs/FLUX.2-dev",
    "act_fn": "silu",
    "batch_norm_eps": 0.0001,
    "batch_norm_momentum": 0.1,
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "force_upcast": True,
    "in_channels": 3,
    "latent_channels": 32,
    "layers_per_block": 2,
    "mid_block_add_attention": True,
    "norm_num_groups": 32,
    "out_channels": 3,
    "patch_size": [2, 2],
    "sample_size": 1024,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "use_post_quant_conv": True,
    "use_quant_conv": True,
}

TINY_VAE = {
    "block_out_channels": [4, 8, 8, 8],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 64,
}

TEXT_ENCODER = {
    **{name: value for name, value in QWEN3.items() if name != "torch_dtype"},
    "dtype": "bfloat16",
    "layer_types": ["full_attention"] * 36,
    "transformers_version": "4.56.1",
}

LAYERS = 28
"""Layer 27 is the last that the pipeline reads, and must not be the last of all."""

PARTS = {
    "transformer": Part("Flux2Transformer2DModel", TRANSFORMER, TINY_TRANSFORMER),
    "vae": Part("AutoencoderKLFlux2", VAE, TINY_VAE),
    "text_encoder": Part(
        "Qwen3ForCausalLM",
        TEXT_ENCODER,
        {
            **{name: value for name, value in TINY_QWEN3.items() if name != "torch_dtype"},
            "dtype": "float32",
            "layer_types": ["full_attention"] * LAYERS,
            "num_hidden_layers": LAYERS,
        },
        shards=2,
    ),
}


def build(folder: Path, seed: int = 0) -> None:
    """Write a tiny random model of the family in its published layout."""
    vocabularies = {"text_encoder": write_qwen(folder / "tokenizer", files=True)}
    write_pipeline(folder, INDEX, PARTS, SCHEDULER, vocabularies, seed)
