"""Published models that differ in numbers alone from the one that a family's module describes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.corpus.families.parts import Config


@dataclass(frozen=True)
class Variant:
    """What differs from the published model of `registry.FAMILIES[family]`."""

    family: str
    parts: Mapping[str, Config] = field(default_factory=dict)
    index: Config = field(default_factory=dict)
    scheduler: Config = field(default_factory=dict)


KLEIN_9B: Mapping[str, Config] = {
    "transformer": {
        "joint_attention_dim": 12288,
        "num_attention_heads": 32,
        "num_layers": 8,
        "num_single_layers": 24,
    },
    "text_encoder": {  # Qwen3-8B
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "tie_word_embeddings": False,
    },
}
DISTILLED: Config = {"is_distilled": True}

VARIANTS: Mapping[str, Variant] = {
    "lodestones/Chroma1-Base": Variant("chroma"),
    "black-forest-labs/FLUX.1-Krea-dev": Variant("flux"),
    "black-forest-labs/FLUX.1-schnell": Variant(
        "flux",
        {"transformer": {"guidance_embeds": False}},
        scheduler={"shift": 1.0, "use_dynamic_shifting": False},
    ),
    "black-forest-labs/FLUX.2-klein-base-9B": Variant("flux2_klein", KLEIN_9B),
    "black-forest-labs/FLUX.2-klein-4B": Variant("flux2_klein", index=DISTILLED),
    "black-forest-labs/FLUX.2-klein-9B": Variant("flux2_klein", KLEIN_9B, DISTILLED),
    "krea/Krea-2-Turbo": Variant("krea2", index=DISTILLED),
    "Qwen/Qwen-Image": Variant("qwen_image"),
    "Efficient-Large-Model/SANA1.5_4.8B_1024px_diffusers": Variant(
        "sana", {"transformer": {"num_layers": 60}}
    ),
    "Efficient-Large-Model/Sana_600M_1024px_diffusers": Variant(
        "sana",
        {
            "transformer": {
                "cross_attention_dim": 1152,
                "cross_attention_head_dim": 72,
                "num_attention_heads": 36,
                "num_cross_attention_heads": 16,
                "num_layers": 28,
                "qk_norm": None,
            }
        },
    ),
    "stabilityai/stable-diffusion-3.5-large": Variant(
        "sd3",
        {
            "transformer": {
                "caption_projection_dim": 2432,
                "dual_attention_layers": [],
                "num_attention_heads": 38,
                "num_layers": 38,
                "pos_embed_max_size": 192,
            }
        },
    ),
    "stabilityai/stable-diffusion-3-medium-diffusers": Variant(
        "sd3",
        {"transformer": {"dual_attention_layers": [], "pos_embed_max_size": 192, "qk_norm": None}},
    ),
    "Tongyi-MAI/Z-Image-Turbo": Variant("z_image", scheduler={"shift": 3.0}),
}
"""By the repository's name."""
