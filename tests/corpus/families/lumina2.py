"""Lumina-Image 2.0: Gemma's state before the last behind a system prompt, time runs backwards."""

from pathlib import Path

from tests.corpus.families import flux, sana
from tests.corpus.families.facts import FamilyFacts
from tests.corpus.families.parts import Part, write_pipeline
from tests.corpus.families.tokenizers import write_gemma

FACTS = FamilyFacts(
    repository="Alpha-VLLM/Lumina-Image-2.0",
    license="apache-2.0",
    pipeline="Lumina2Pipeline",
    resolution=1024,
    steps=50,
    guidance=4.0,
    parameters={
        "transformer": 2_609_769_152,
        "vae": 83_819_683,
        "text_encoder": 2_614_341_888,
    },
    files={
        "transformer/diffusion_pytorch_model.safetensors": None,
        "vae/diffusion_pytorch_model.safetensors": None,
        "text_encoder/model-00001-of-00002.safetensors": None,
        "text_encoder/model-00002-of-00002.safetensors": None,
    },
    lora_targets=("to_k", "to_q", "to_v", "to_out.0"),
    comfyui_prefix="diffusion_model.",
    notes=(
        "The sign is Z-Image's, guidance is classifier-free and keeps the norm of the guided"
        " prediction. ComfyUI's names fuse q, k and v (attention.qkv)."
    ),
)

INDEX = {
    "_class_name": "Lumina2Pipeline",
    "_diffusers_version": "0.33.0.dev0",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Gemma2Model"],
    "tokenizer": ["transformers", "GemmaTokenizerFast"],
    "transformer": ["diffusers", "Lumina2Transformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}

SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "_diffusers_version": "0.33.0.dev0",
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "invert_sigmas": False,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "num_train_timesteps": 1000,
    "shift": 6.0,
    "shift_terminal": None,
    "use_beta_sigmas": False,
    "use_dynamic_shifting": False,
    "use_exponential_sigmas": False,
    "use_karras_sigmas": False,
}

TRANSFORMER = {
    "_class_name": "Lumina2Transformer2DModel",
    "_diffusers_version": "0.33.0.dev0",
    "axes_dim_rope": [32, 32, 32],
    "axes_lens": [300, 512, 512],
    "cap_feat_dim": 2304,
    "ffn_dim_multiplier": None,
    "hidden_size": 2304,
    "in_channels": 16,
    "multiple_of": 256,
    "norm_eps": 1e-05,
    "num_attention_heads": 24,
    "num_kv_heads": 8,
    "num_layers": 26,
    "num_refiner_layers": 2,
    "out_channels": None,
    "patch_size": 2,
    "sample_size": 128,
    "scaling_factor": 1.0,
}

PARTS = {
    "transformer": Part(
        "Lumina2Transformer2DModel",
        TRANSFORMER,
        {
            "axes_dim_rope": [2, 2, 4],
            "cap_feat_dim": 16,
            "hidden_size": 16,
            "multiple_of": 8,
            "num_attention_heads": 2,
            "num_kv_heads": 1,
            "num_layers": 2,
            "sample_size": 8,
        },
    ),
    "vae": Part("AutoencoderKL", flux.VAE, flux.TINY_VAE),
    "text_encoder": sana.PARTS["text_encoder"],
}

SYSTEM_WORDS = """
    You are an assistant designed to generate superior images degree image-text alignment based
    textual prompts or prompts. <Prompt Start>
"""
"""Words of the pipeline's system prompt."""


def build(folder: Path, seed: int = 0) -> None:
    """Write a tiny random model of the family in its published layout."""
    vocabularies = {"text_encoder": write_gemma(folder / "tokenizer", SYSTEM_WORDS)}
    write_pipeline(folder, INDEX, PARTS, SCHEDULER, vocabularies, seed)
