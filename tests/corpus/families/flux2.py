"""FLUX.2 dev: three layers of Mistral 3, guidance as an input, else as FLUX.2 klein."""

from pathlib import Path

from tests.corpus.families import flux2_klein
from tests.corpus.families.facts import FamilyFacts
from tests.corpus.families.parts import Part, write_pipeline
from tests.corpus.families.tokenizers import write_mistral

FACTS = FamilyFacts(
    repository="black-forest-labs/FLUX.2-dev",
    license="flux-dev-non-commercial-license",
    pipeline="Flux2Pipeline",
    resolution=1024,
    steps=50,
    guidance=4.0,
    parameters={
        "transformer": 32_223_281_152,
        "vae": 84_046_115,
        "text_encoder": 24_011_361_280,
    },
    files={
        "transformer/diffusion_pytorch_model-00001-of-00007.safetensors": 9_935_797_200,
        "transformer/diffusion_pytorch_model-00002-of-00007.safetensors": 9_890_181_048,
        "transformer/diffusion_pytorch_model-00003-of-00007.safetensors": 9_814_681_480,
        "transformer/diffusion_pytorch_model-00004-of-00007.safetensors": 9_814_681_536,
        "transformer/diffusion_pytorch_model-00005-of-00007.safetensors": 9_814_681_536,
        "transformer/diffusion_pytorch_model-00006-of-00007.safetensors": 9_814_681_536,
        "transformer/diffusion_pytorch_model-00007-of-00007.safetensors": 5_361_898_792,
        "vae/diffusion_pytorch_model.safetensors": 336_213_556,
        "text_encoder/model-00001-of-00010.safetensors": 4_883_550_696,
        "text_encoder/model-00002-of-00010.safetensors": 4_781_593_336,
        "text_encoder/model-00003-of-00010.safetensors": 4_886_472_224,
        "text_encoder/model-00004-of-00010.safetensors": 4_781_593_376,
        "text_encoder/model-00005-of-00010.safetensors": 4_781_593_368,
        "text_encoder/model-00006-of-00010.safetensors": 4_886_472_248,
        "text_encoder/model-00007-of-00010.safetensors": 4_781_593_376,
        "text_encoder/model-00008-of-00010.safetensors": 4_781_593_368,
        "text_encoder/model-00009-of-00010.safetensors": 4_886_472_248,
        "text_encoder/model-00010-of-00010.safetensors": 4_571_866_320,
    },
    others={
        "ae.safetensors": 336_211_292,
        "flux2-dev.safetensors": 64_446_596_128,
        "tokenizer/tokenizer.json": 17_078_037,
    },
    lora_targets=flux2_klein.FACTS.lora_targets,
    kohya_prefixes=("lora_unet_",),
    comfyui_prefix="diffusion_model.",
    notes=(
        "Guidance is distilled: an input of the transformer, 4 when sampling, and there is no"
        " negative prompt. The processor of the prompts needs torchvision; for text alone, the"
        " tokenizer beside it gives the same tokens."
    ),
)

INDEX = {
    "_class_name": "Flux2Pipeline",
    "_diffusers_version": "0.36.0.dev0",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Mistral3ForConditionalGeneration"],
    "tokenizer": ["transformers", "PixtralProcessor"],
    "transformer": ["diffusers", "Flux2Transformer2DModel"],
    "vae": ["diffusers", "AutoencoderKLFlux2"],
}

SCHEDULER = {**flux2_klein.SCHEDULER, "_diffusers_version": "0.36.0.dev0"}

TRANSFORMER = {
    **flux2_klein.TRANSFORMER,
    "_diffusers_version": "0.36.0.dev0",
    "guidance_embeds": True,
    "joint_attention_dim": 15360,
    "num_attention_heads": 48,
    "num_layers": 8,
    "num_single_layers": 48,
}

VAE = {
    name: value
    for name, value in {**flux2_klein.VAE, "_diffusers_version": "0.36.0.dev0"}.items()
    if name != "_name_or_path"
}

TEXT_ENCODER = {
    "architectures": ["Mistral3ForConditionalGeneration"],
    "dtype": "bfloat16",
    "image_token_index": 10,
    "model_type": "mistral3",
    "multimodal_projector_bias": False,
    "projector_hidden_act": "gelu",
    "spatial_merge_size": 2,
    "text_config": {
        "attention_dropout": 0.0,
        "dtype": "bfloat16",
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 5120,
        "initializer_range": 0.02,
        "intermediate_size": 32768,
        "max_position_embeddings": 131072,
        "model_type": "mistral",
        "num_attention_heads": 32,
        "num_hidden_layers": 40,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_theta": 1000000000.0,
        "sliding_window": None,
        "use_cache": True,
        "vocab_size": 131072,
    },
    "tie_word_embeddings": False,
    "transformers_version": "4.57.1",
    "vision_config": {
        "attention_dropout": 0.0,
        "dtype": "bfloat16",
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 1024,
        "image_size": 1540,
        "initializer_range": 0.02,
        "intermediate_size": 4096,
        "model_type": "pixtral",
        "num_attention_heads": 16,
        "num_channels": 3,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "rope_theta": 10000.0,
    },
    "vision_feature_layer": -1,
}

PARTS = {
    "transformer": Part(
        "Flux2Transformer2DModel", TRANSFORMER, flux2_klein.TINY_TRANSFORMER, shards=7
    ),
    "vae": Part("AutoencoderKLFlux2", VAE, flux2_klein.TINY_VAE),
    "text_encoder": Part(
        "Mistral3ForConditionalGeneration",
        TEXT_ENCODER,
        {
            "dtype": "float32",
            "text_config": {
                "dtype": "float32",
                "head_dim": 8,
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_attention_heads": 2,
                "num_hidden_layers": 31,  # layer 30 is the last that the pipeline reads
                "num_key_value_heads": 1,
            },
            "vision_config": {
                "dtype": "float32",
                "head_dim": 8,
                "hidden_size": 16,
                "image_size": 56,
                "intermediate_size": 32,
                "num_attention_heads": 2,
                "num_hidden_layers": 2,
            },
        },
        shards=10,
    ),
}


def build(folder: Path, seed: int = 0) -> None:
    """Write a tiny random model of the family in its published layout."""
    vocabularies = {"text_encoder": write_mistral(folder / "tokenizer")}
    write_pipeline(folder, INDEX, PARTS, SCHEDULER, vocabularies, seed)
