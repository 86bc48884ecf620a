"""Stable Diffusion XL: two CLIP text encoders, size conditioning, predicts noise."""

from pathlib import Path

from safetensors.torch import load_file, save_file

from tests.corpus.families.facts import FamilyFacts
from tests.corpus.families.parts import Part, write_pipeline
from tests.corpus.families.tokenizers import write_clip

FACTS = FamilyFacts(
    repository="stabilityai/stable-diffusion-xl-base-1.0",
    license="openrail++",
    pipeline="StableDiffusionXLPipeline",
    resolution=1024,
    steps=50,
    guidance=5.0,
    parameters={
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    },
    files={
        "unet/diffusion_pytorch_model.safetensors": 10_270_077_736,
        "vae/diffusion_pytorch_model.safetensors": 334_643_268,
        "text_encoder/model.safetensors": 492_265_168,
        "text_encoder_2/model.safetensors": 2_778_702_264,
    },
    others={
        "unet/diffusion_pytorch_model.fp16.safetensors": 5_135_149_760,
        "vae/diffusion_pytorch_model.fp16.safetensors": 167_335_342,
        "text_encoder/model.fp16.safetensors": 246_144_152,
        "text_encoder_2/model.fp16.safetensors": 1_389_382_176,
        "sd_xl_base_1.0.safetensors": 6_938_078_334,
        "sd_xl_base_1.0_0.9vae.safetensors": 6_938_078_334,
        "sd_xl_offset_example-lora_1.0.safetensors": 49_553_604,
        "text_encoder/flax_model.msgpack": 492_248_682,
        "text_encoder/model.onnx": 492_587_457,
        "text_encoder/openvino_model.bin": 492_242_672,
        "text_encoder/openvino_model.xml": 1_057_789,
        "text_encoder_2/flax_model.msgpack": 2_778_657_095,
        "text_encoder_2/model.onnx_data": 2_778_639_360,
        "text_encoder_2/openvino_model.bin": 2_778_640_120,
        "text_encoder_2/openvino_model.xml": 2_790_191,
        "unet/diffusion_flax_model.msgpack": 10_269_915_611,
        "unet/model.onnx": 7_293_842,
        "unet/model.onnx_data": 10_269_854_720,
        "unet/openvino_model.bin": 10_269_856_428,
        "unet/openvino_model.xml": 22_577_438,
        "vae/diffusion_flax_model.msgpack": 334_623_853,
        "vae_1_0/diffusion_pytorch_model.fp16.safetensors": 167_335_342,
        "vae_1_0/diffusion_pytorch_model.safetensors": 334_643_268,
        "vae_decoder/model.onnx": 198_093_688,
        "vae_decoder/openvino_model.bin": 197_961_232,
        "vae_encoder/model.onnx": 136_775_724,
        "vae_encoder/openvino_model.bin": 136_655_184,
    },
    lora_targets=("to_k", "to_q", "to_v", "to_out.0"),
    lora_prefixes=("unet", "text_encoder", "text_encoder_2"),
    kohya_prefixes=("lora_unet_", "lora_te1_", "lora_te2_"),
    same_layout=(
        "SG161222/RealVisXL_V5.0",
        "cagliostrolab/animagine-xl-4.0",
        "OnomaAIResearch/Illustrious-xl-early-release-v0",
        "stabilityai/sdxl-turbo",
    ),
    notes=(
        "Text encoders get adapters on q_proj, k_proj, v_proj and out_proj. The VAE overflows in"
        " half precision (force_upcast). Negative prompts that are not given are zeros, not the"
        " encoded empty prompt (force_zeros_for_empty_prompt). ComfyUI reads kohya's names."
    ),
)

INDEX = {
    "_class_name": "StableDiffusionXLPipeline",
    "_diffusers_version": "0.19.0.dev0",
    "force_zeros_for_empty_prompt": True,
    "add_watermarker": None,
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}

SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": "0.19.0.dev0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}

UNET = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.19.0.dev0",
    "act_fn": "silu",
    "addition_embed_type": "text_time",
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "center_input_sample": False,
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_dim": 2048,
    "cross_attention_norm": None,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_only_cross_attention": None,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "out_channels": 4,
    "projection_class_embeddings_input_dim": 2816,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "sample_size": 128,
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "upcast_attention": None,
    "use_linear_projection": True,
}

VAE = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.20.0.dev0",
    "_name_or_path": "../sdxl-vae/",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "force_upcast": True,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 1024,
    "scaling_factor": 0.13025,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}

CLIP_L = {
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "projection_dim": 768,
    "torch_dtype": "float16",
    "transformers_version": "4.32.0.dev0",
    "vocab_size": 49408,
}

CLIP_G = {
    **CLIP_L,
    "architectures": ["CLIPTextModelWithProjection"],
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
}

LATENT_SIZE = 14
"""Factor from the deviation of a random VAE's latents, about 1/2, to that of SDXL's."""

TINY_CLIP = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "projection_dim": 16,
    "torch_dtype": "float32",
}

PARTS = {
    "unet": Part(
        "UNet2DConditionModel",
        UNET,
        {
            "addition_time_embed_dim": 8,
            "attention_head_dim": [2, 2, 4],
            "block_out_channels": [8, 16, 32],
            "cross_attention_dim": 40,
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 24,
            "sample_size": 8,
            "transformer_layers_per_block": [1, 1, 2],
        },
    ),
    "vae": Part(
        "AutoencoderKL",
        VAE,
        {
            "block_out_channels": [4, 8, 8, 8],
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "sample_size": 64,
        },
    ),
    "text_encoder": Part("CLIPTextModel", CLIP_L, TINY_CLIP),
    "text_encoder_2": Part(
        "CLIPTextModelWithProjection",
        CLIP_G,
        {**TINY_CLIP, "hidden_size": 24, "projection_dim": 24},
    ),
}


def build(folder: Path, seed: int = 0) -> None:
    """Write a tiny random model of the family in its published layout."""
    vocabularies = {
        "text_encoder": write_clip(folder / "tokenizer"),
        "text_encoder_2": write_clip(folder / "tokenizer_2", pad="!"),
    }
    write_pipeline(folder, INDEX, PARTS, SCHEDULER, vocabularies, seed)
    _spread_latents(folder / "vae" / "diffusion_pytorch_model.safetensors")


def _spread_latents(path: Path) -> None:
    """Make the random VAE's latents as large as the published one's, for its scaling_factor."""
    weights = load_file(path)
    for name in ("quant_conv.weight", "quant_conv.bias"):
        weights[name][:4] *= LATENT_SIZE  # the means; variances follow
    weights["post_quant_conv.weight"] /= LATENT_SIZE
    save_file(weights, path, {"format": "pt"})
