"""Chroma: FLUX.1 with T5 alone and masks, its modulation made by a small network."""

from pathlib import Path

from tests.corpus.families import flux
from tests.corpus.families.facts import FamilyFacts
from tests.corpus.families.parts import Part, write_pipeline
from tests.corpus.families.tokenizers import write_t5

FACTS = FamilyFacts(
    repository="lodestones/Chroma1-HD",
    license="apache-2.0",
    pipeline="ChromaPipeline",
    resolution=1024,
    steps=40,
    guidance=3.0,
    parameters={
        "transformer": 8_899_983_424,
        "vae": 83_819_683,
        "text_encoder": 4_762_310_656,
    },
    files={
        "transformer/diffusion_pytorch_model-00001-of-00002.safetensors": 9_946_193_392,
        "transformer/diffusion_pytorch_model-00002-of-00002.safetensors": 7_853_894_360,
        "vae/diffusion_pytorch_model.safetensors": 167_666_902,
        "text_encoder/model-00001-of-00002.safetensors": 4_994_582_224,
        "text_encoder/model-00002-of-00002.safetensors": 4_530_066_360,
    },
    lora_targets=("to_k", "to_q", "to_v", "to_out.0"),  # diffusers has no script for it
    kohya_prefixes=("lora_unet_", "lora_te3_"),
    comfyui_prefix="diffusion_model.",
    same_layout=("lodestones/Chroma1-Base",),
    notes=(
        "Guidance is classifier-free, with a negative prompt; nothing is distilled. The sizes are"
        " of copies that the same libraries saved; with the single file they make up the 45.3 GB of"
        " the repository. The scheduler's values have not been compared with the repository's."
    ),
)

INDEX = {
    "_class_name": "ChromaPipeline",
    "_diffusers_version": "0.35.0.dev0",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "T5Tokenizer"],
    "transformer": ["diffusers", "ChromaTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}

SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "_diffusers_version": "0.35.0.dev0",
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "invert_sigmas": False,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "shift_terminal": None,
    "stochastic_sampling": False,
    "time_shift_type": "exponential",
    "use_beta_sigmas": False,
    "use_dynamic_shifting": False,
    "use_exponential_sigmas": False,
    "use_karras_sigmas": False,
}

TRANSFORMER = {
    "_class_name": "ChromaTransformer2DModel",
    "_diffusers_version": "0.35.0.dev0",
    "approximator_hidden_dim": 5120,
    "approximator_layers": 5,
    "approximator_num_channels": 64,
    "attention_head_dim": 128,
    "axes_dims_rope": [16, 56, 56],
    "in_channels": 64,
    "joint_attention_dim": 4096,
    "num_attention_heads": 24,
    "num_layers": 19,
    "num_single_layers": 38,
    "out_channels": None,
    "patch_size": 1,
}

PARTS = {
    "transformer": Part(
        "ChromaTransformer2DModel",
        TRANSFORMER,
        {
            "approximator_hidden_dim": 16,
            "approximator_layers": 2,
            "approximator_num_channels": 16,
            "attention_head_dim": 8,
            "axes_dims_rope": [2, 2, 4],
            "joint_attention_dim": 16,
            "num_attention_heads": 2,
            "num_layers": 2,
            "num_single_layers": 2,
        },
        shards=2,
    ),
    "vae": Part("AutoencoderKL", flux.VAE, flux.TINY_VAE),
    "text_encoder": Part("T5EncoderModel", flux.T5, flux.TINY_T5, shards=2),
}


def build(folder: Path, seed: int = 0) -> None:
    """Write a tiny random model of the family in its published layout."""
    vocabularies = {"text_encoder": write_t5(folder / "tokenizer")}
    write_pipeline(folder, INDEX, PARTS, SCHEDULER, vocabularies, seed)
