"""What a model is that cannot be trained, in words: pure, from names of classes and files."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from dreambooth_trainer.models.family import Family
from dreambooth_trainer.models.source.model_files import ModelFiles
from dreambooth_trainer.process.errors import BadModelError

PURPOSES = {
    "video": (
        r"Video|Wan|LTX|Mochi|Allegro|AnimateDiff|EasyAnimate|Latte|SkyReels|ConsisID|Cosmos|Helios"
        r"|ChronoEdit|Lucy|AnyFlow|[TI]2V"
    ),
    "audio": r"Audio|Music|AceStep",
    "inpainting": r"Inpaint|Fill|RePaint|PaintByExample",
    "editing images": r"Edit|Kontext|Pix2Pix",
    "control images": r"Control|Adapter",
    "upscaling": r"Upscale|Upsample|SuperResolution",
    "changing images": r"Img2Img|ImageToImage|I2I|Variation|Refiner",
}
"""What diffusers' pipelines are for, by parts of their names; the first that fits."""
SINGLE_FILES = (".safetensors", ".ckpt")
LORA_FILES = frozenset({"adapter_config.json", "pytorch_lora_weights.safetensors"})


def unsupported_pipeline(name: Any, families: Mapping[str, type[Family]]) -> str:
    """Why a pipeline cannot be trained, and what can, to follow the model's source.

    Args:
        name: `_class_name` of model_index.json.
        families: All, by their pipelines.
    """
    for family in families.values():
        if purpose := family.other_pipelines.get(str(name)):
            return (
                f"is a {name}, for {purpose}, which cannot be trained; use a text-to-image model of"
                f" {family.name}, such as {family.published[0].source}"
            )
    known = (use for use, pattern in PURPOSES.items() if re.search(pattern, str(name)))
    purpose = next(known, None)
    return (
        f"is a {name}, {f'for {purpose}, ' if purpose else ''}which cannot be trained;"
        f" {use_a_model_of(families.values())}"
    )


def use_a_model_of(families: Iterable[type[Family]]) -> str:
    """What to do instead, with the names of all families."""
    names = sorted({family.name for family in families}, key=str.lower)
    return f"use a text-to-image model of {', '.join(names)}: docs/models.md lists them"


def folder_without_pipeline(files: ModelFiles) -> str:
    """What a folder without model_index.json holds, to follow the model's source."""
    if any(name.endswith(".gguf") for name in files.names):
        return (
            "holds GGUF files, quantized for inference, which cannot be trained; name the model"
            " with its original weights"
        )
    if LORA_FILES & files.names:
        return "is a LoRA, not a model; name the model that it was trained on"
    try:
        kind = (
            files.json("config.json").get("_class_name") if "config.json" in files.names else None
        )
    except BadModelError:
        kind = None
    if kind:
        return f"is a {kind}, a part of a model; name a folder with model_index.json"
    single = sorted(name for name in files.names if name.endswith(SINGLE_FILES))
    found = f" ({single[0]})" if single else ""
    return (
        f"has no model_index.json; name the folder that holds it, or a file{found} with"
        " spec.model.layout set to single-file"
    )
