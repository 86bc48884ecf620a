"""FLUX.1: CLIP's pooled embedding and T5's sequence, packed latents, guidance as an input."""

from pathlib import Path

from tests.corpus.families.facts import FamilyFacts
from tests.corpus.families.parts import Part, write_pipeline
from tests.corpus.families.sdxl import CLIP_L, TINY_CLIP
from tests.corpus.families.tokenizers import write_clip, write_t5

FACTS = FamilyFacts(
    repository="black-forest-labs/FLUX.1-dev",
    license="flux-1-dev-non-commercial-license",
    pipeline="FluxPipeline",
    resolution=1024,
    steps=28,
    guidance=3.5,
    parameters={
        "transformer": 11_901_408_320,
        "vae": 83_819_683,
        "text_encoder": 123_060_480,
        "text_encoder_2": 4_762_310_656,
    },
    files={
        "transformer/diffusion_pytorch_model-00001-of-00003.safetensors": 9_983_040_304,
        "transformer/diffusion_pytorch_model-00002-of-00003.safetensors": 9_949_328_904,
        "transformer/diffusion_pytorch_model-00003-of-00003.safetensors": 3_870_584_832,
        "vae/diffusion_pytorch_model.safetensors": 167_666_902,
        "text_encoder/model.safetensors": 246_144_352,
        "text_encoder_2/model-00001-of-00002.safetensors": 4_994_582_224,
        "text_encoder_2/model-00002-of-00002.safetensors": 4_530_066_360,
    },
    others={"ae.safetensors": 335_304_388, "flux1-dev.safetensors": 23_802_932_552},
    lora_targets=(
        "attn.to_k",
        "attn.to_q",
        "attn.to_v",
        "attn.to_out.0",
        "attn.add_k_proj",
        "attn.add_q_proj",
        "attn.add_v_proj",
        "attn.to_add_out",
        "ff.net.0.proj",
        "ff.net.2",
        "ff_context.net.0.proj",
        "ff_context.net.2",
    ),
    lora_prefixes=("transformer", "text_encoder"),
    kohya_prefixes=("lora_unet_", "lora_te1_", "lora_te3_"),
    comfyui_prefix="transformer.",
    same_layout=(
        "black-forest-labs/FLUX.1-schnell",
        "black-forest-labs/FLUX.1-Krea-dev",
    ),
    notes=(
        "dev distils guidance: it is an input, 3.5 when sampling, 1 when training. schnell (Apache"
        " 2.0) distils steps: guidance_embeds false, scheduler shift 1 without dynamic shifting,"
        " 4 steps, 256 tokens of T5; adapters are trained on dev or with a training adapter."
        " FLUX.1-Kontext-dev has the class FluxKontextPipeline. kohya's names are those of the"
        " original model (double_blocks, single_blocks, fused qkv)."
    ),
)

INDEX = {
    "_class_name": "FluxPipeline",
    "_diffusers_version": "0.30.0.dev0",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}

SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "_diffusers_version": "0.30.0.dev0",
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
}

TRANSFORMER = {
    "_class_name": "FluxTransformer2DModel",
    "_diffusers_version": "0.30.0.dev0",
    "_name_or_path": "../checkpoints/flux-dev/transformer",
    "attention_head_dim": 128,
    "guidance_embeds": True,
    "in_channels": 64,
    "joint_attention_dim": 4096,
    "num_attention_heads": 24,
    "num_layers": 19,
    "num_single_layers": 38,
    "patch_size": 1,
    "pooled_projection_dim": 768,
}

VAE = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.30.0.dev0",
    "_name_or_path": "../checkpoints/flux-dev",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "force_upcast": True,
    "in_channels": 3,
    "latent_channels": 16,
    "latents_mean": None,
    "latents_std": None,
    "layers_per_block": 2,
    "mid_block_add_attention": True,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 1024,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "use_post_quant_conv": False,
    "use_quant_conv": False,
}

TINY_VAE = {
    "block_out_channels": [4, 8, 8, 8],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 64,
}

T5 = {
    "_name_or_path": "google/t5-v1_1-xxl",
    "architectures": ["T5EncoderModel"],
    "classifier_dropout": 0.0,
    "d_ff": 10240,
    "d_kv": 64,
    "d_model": 4096,
    "decoder_start_token_id": 0,
    "dense_act_fn": "gelu_new",
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "is_gated_act": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "num_decoder_layers": 24,
    "num_heads": 64,
    "num_layers": 24,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.3",
    "use_cache": True,
    "vocab_size": 32128,
}

TINY_T5 = {
    "d_ff": 32,
    "d_kv": 8,
    "d_model": 16,
    "num_decoder_layers": 2,
    "num_heads": 2,
    "num_layers": 2,
    "torch_dtype": "float32",
}

PARTS = {
    "transformer": Part(
        "FluxTransformer2DModel",
        TRANSFORMER,
        {
            "attention_head_dim": 8,
            "axes_dims_rope": [2, 2, 4],
            "joint_attention_dim": 16,
            "num_attention_heads": 2,
            "num_layers": 2,
            "num_single_layers": 2,
            "pooled_projection_dim": 16,
        },
        shards=3,
    ),
    "vae": Part("AutoencoderKL", VAE, TINY_VAE),
    "text_encoder": Part(
        "CLIPTextModel",
        {**CLIP_L, "torch_dtype": "bfloat16", "transformers_version": "4.43.3"},
        TINY_CLIP,
    ),
    "text_encoder_2": Part("T5EncoderModel", T5, TINY_T5, shards=2),
}


def build(folder: Path, seed: int = 0) -> None:
    """Write a tiny random model of the family in its published layout."""
    vocabularies = {
        "text_encoder": write_clip(folder / "tokenizer"),
        "text_encoder_2": write_t5(folder / "tokenizer_2"),
    }
    write_pipeline(folder, INDEX, PARTS, SCHEDULER, vocabularies, seed)
