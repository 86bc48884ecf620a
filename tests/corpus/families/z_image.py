"""Z-Image: Qwen3's states as lists without padding, a single stream, time runs backwards."""

from pathlib import Path

from tests.corpus.families import flux
from tests.corpus.families.facts import FamilyFacts
from tests.corpus.families.parts import Part, write_pipeline
from tests.corpus.families.tokenizers import write_qwen

FACTS = FamilyFacts(
    repository="Tongyi-MAI/Z-Image",
    license="apache-2.0",
    pipeline="ZImagePipeline",
    resolution=1024,
    steps=50,
    guidance=4.0,
    parameters={
        "transformer": 6_154_908_736,
        "vae": 83_819_683,
        "text_encoder": 4_022_468_096,
    },
    files={
        "transformer/diffusion_pytorch_model-00001-of-00002.safetensors": 9_973_727_144,
        "transformer/diffusion_pytorch_model-00002-of-00002.safetensors": 2_336_146_728,
        "vae/diffusion_pytorch_model.safetensors": 167_666_902,
        "text_encoder/model-00001-of-00003.safetensors": 3_957_900_840,
        "text_encoder/model-00002-of-00003.safetensors": 3_987_450_520,
        "text_encoder/model-00003-of-00003.safetensors": 99_630_640,
    },
    lora_targets=("to_k", "to_q", "to_v", "to_out.0"),
    kohya_prefixes=("lora_unet_",),
    comfyui_prefix="diffusion_model.",
    same_layout=("Tongyi-MAI/Z-Image-Turbo",),
    notes=(
        "Turbo distils guidance and steps: scheduler shift 3, 9 steps (8 evaluations), guidance 0;"
        " its transformer is published in fp32, in three files of 9,973,693,184, 9,973,714,824 and"
        " 4,672,282,880 bytes. Adapters of Turbo are trained with a de-distillation adapter, or"
        " on the base. Guidance is counted from 0: the prediction is p + g (p - n)."
    ),
)

INDEX = {
    "_class_name": "ZImagePipeline",
    "_diffusers_version": "0.37.0.dev0",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen3Model"],
    "tokenizer": ["transformers", "Qwen2Tokenizer"],
    "transformer": ["diffusers", "ZImageTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}

SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "_diffusers_version": "0.37.0.dev0",
    "num_train_timesteps": 1000,
    "use_dynamic_shifting": False,
    "shift": 6.0,
}

TRANSFORMER = {
    "_class_name": "ZImageTransformer2DModel",
    "_diffusers_version": "0.37.0.dev0",
    "all_f_patch_size": [1],
    "all_patch_size": [2],
    "axes_dims": [32, 48, 48],
    "axes_lens": [1536, 512, 512],
    "cap_feat_dim": 2560,
    "dim": 3840,
    "in_channels": 16,
    "n_heads": 30,
    "n_kv_heads": 30,
    "n_layers": 30,
    "n_refiner_layers": 2,
    "norm_eps": 1e-05,
    "qk_norm": True,
    "rope_theta": 256.0,
    "t_scale": 1000.0,
}

VAE = {**flux.VAE, "_diffusers_version": "0.36.0.dev0", "_name_or_path": "flux-dev"}

QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2560,
    "initializer_range": 0.02,
    "intermediate_size": 9728,
    "max_position_embeddings": 40960,
    "max_window_layers": 36,
    "model_type": "qwen3",
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}

TINY_QWEN3 = {
    "bos_token_id": None,
    "eos_token_id": None,
    "head_dim": 8,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "num_key_value_heads": 1,
    "torch_dtype": "float32",
}

PARTS = {
    "transformer": Part(
        "ZImageTransformer2DModel",
        TRANSFORMER,
        {
            "axes_dims": [2, 2, 4],
            "cap_feat_dim": 16,
            "dim": 16,
            "n_heads": 2,
            "n_kv_heads": 2,
            "n_layers": 2,
        },
        shards=2,
    ),
    "vae": Part("AutoencoderKL", VAE, flux.TINY_VAE),
    "text_encoder": Part("Qwen3ForCausalLM", QWEN3, TINY_QWEN3, shards=3),
}


def build(folder: Path, seed: int = 0) -> None:
    """Write a tiny random model of the family in its published layout."""
    vocabularies = {"text_encoder": write_qwen(folder / "tokenizer")}
    write_pipeline(folder, INDEX, PARTS, SCHEDULER, vocabularies, seed)
