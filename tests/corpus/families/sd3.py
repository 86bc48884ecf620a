"""Stable Diffusion 3.5 medium: two CLIP encoders beside T5, two attentions in the first layers."""

from pathlib import Path

from tests.corpus.families import flux, sdxl
from tests.corpus.families.facts import FamilyFacts
from tests.corpus.families.parts import Part, write_pipeline
from tests.corpus.families.tokenizers import write_clip, write_t5

FACTS = FamilyFacts(
    repository="stabilityai/stable-diffusion-3.5-medium",
    license="stabilityai-ai-community",
    pipeline="StableDiffusion3Pipeline",
    resolution=1024,
    steps=40,
    guidance=4.5,
    parameters={
        "transformer": 2_243_171_520,
        "vae": 83_819_683,
        "text_encoder": 123_650_304,
        "text_encoder_2": 694_659_840,
        "text_encoder_3": 4_762_310_656,
    },
    files={
        "transformer/diffusion_pytorch_model.safetensors": 4_939_433_672,
        "vae/diffusion_pytorch_model.safetensors": 167_666_902,
        "text_encoder/model.safetensors": 247_323_896,
        "text_encoder_2/model.safetensors": 1_389_382_176,
        "text_encoder_3/model-00001-of-00002.safetensors": 4_994_582_104,
        "text_encoder_3/model-00002-of-00002.safetensors": 4_530_066_248,
    },
    others={
        "text_encoder/model.fp16.safetensors": 247_323_896,
        "text_encoder_2/model.fp16.safetensors": 1_389_382_176,
        "text_encoder_3/model.fp16-00001-of-00002.safetensors": 4_994_582_104,
        "text_encoder_3/model.fp16-00002-of-00002.safetensors": 4_530_066_248,
        "text_encoders/clip_g.safetensors": 1_389_382_176,
        "text_encoders/clip_l.safetensors": 246_144_152,
        "text_encoders/t5xxl_fp16.safetensors": 9_787_841_024,
        "text_encoders/t5xxl_fp8_e4m3fn.safetensors": 4_893_934_904,
    },
    lora_targets=(
        "attn.add_k_proj",
        "attn.add_q_proj",
        "attn.add_v_proj",
        "attn.to_add_out",
        "attn.to_k",
        "attn.to_out.0",
        "attn.to_q",
        "attn.to_v",
    ),
    lora_prefixes=("transformer", "text_encoder", "text_encoder_2"),
    kohya_prefixes=("lora_unet_", "lora_te1_", "lora_te2_", "lora_te3_"),
    comfyui_prefix="transformer.",
    same_layout=(
        "stabilityai/stable-diffusion-3.5-large",
        "stabilityai/stable-diffusion-3-medium-diffusers",
    ),
    notes=(
        "large: 38 layers and heads, no second attention, a transformer of two files (9,985,185,992"
        " and 6,307,519,304 bytes), 28 steps, guidance 3.5. 3-medium: no qk_norm, a position table"
        " of 192. large-turbo distils steps: 4, guidance 0. kohya's names are those of the original"
        " model (joint_blocks); diffusers does not read them."
    ),
)

INDEX = {
    "_class_name": "StableDiffusion3Pipeline",
    "_diffusers_version": "0.31.0.dev0",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "text_encoder_3": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "tokenizer_3": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "SD3Transformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}

SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "_diffusers_version": "0.31.0.dev0",
    "num_train_timesteps": 1000,
    "shift": 3.0,
}

TRANSFORMER = {
    "_class_name": "SD3Transformer2DModel",
    "_diffusers_version": "0.31.0.dev0",
    "attention_head_dim": 64,
    "caption_projection_dim": 1536,
    "dual_attention_layers": list(range(13)),
    "in_channels": 16,
    "joint_attention_dim": 4096,
    "num_attention_heads": 24,
    "num_layers": 24,
    "out_channels": 16,
    "patch_size": 2,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 384,
    "qk_norm": "rms_norm",
    "sample_size": 128,
}

VAE = {
    **flux.VAE,
    "_diffusers_version": "0.31.0.dev0",
    "_name_or_path": "../sdxl-vae/",
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
}

CLIP_L = {
    **sdxl.CLIP_L,
    "architectures": ["CLIPTextModelWithProjection"],
    "transformers_version": "4.41.2",
}
CLIP_G = {**sdxl.CLIP_G, "transformers_version": "4.41.2"}
T5 = {**flux.T5, "torch_dtype": "float16", "transformers_version": "4.41.2"}

PARTS = {
    "transformer": Part(
        "SD3Transformer2DModel",
        TRANSFORMER,
        {
            "attention_head_dim": 8,
            "caption_projection_dim": 16,
            "dual_attention_layers": [0],
            "joint_attention_dim": 48,
            "num_attention_heads": 2,
            "num_layers": 3,
            "pooled_projection_dim": 16 + 24,
            "pos_embed_max_size": 16,
            "sample_size": 8,
        },
    ),
    "vae": Part("AutoencoderKL", VAE, flux.TINY_VAE),
    "text_encoder": Part("CLIPTextModelWithProjection", CLIP_L, sdxl.TINY_CLIP),
    "text_encoder_2": Part(
        "CLIPTextModelWithProjection",
        CLIP_G,
        {**sdxl.TINY_CLIP, "hidden_size": 24, "projection_dim": 24},
    ),
    "text_encoder_3": Part("T5EncoderModel", T5, {**flux.TINY_T5, "d_model": 48}, shards=2),
}


def build(folder: Path, seed: int = 0) -> None:
    """Write a tiny random model of the family in its published layout."""
    vocabularies = {
        "text_encoder": write_clip(folder / "tokenizer"),
        "text_encoder_2": write_clip(folder / "tokenizer_2", pad="!"),
        "text_encoder_3": write_t5(folder / "tokenizer_3"),
    }
    write_pipeline(folder, INDEX, PARTS, SCHEDULER, vocabularies, seed)
