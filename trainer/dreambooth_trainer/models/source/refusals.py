"""What a model is that cannot be trained, in words: pure, from names of classes and files."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from dreambooth_trainer.models.family import Family
from dreambooth_trainer.models.source.model_files import WEIGHTS_SUFFIX, ModelFiles
from dreambooth_trainer.models.source.weights import read_header
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
LORA_FILES = frozenset(
    {"adapter_config.json", "pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin"}
)
LORA_TENSORS = ("lora", "lycoris", "hada_w", "lokr_w")
"""In the names of the tensors of LoRAs and LyCORIS, and in those of no model."""
USE_OF_LORA = (
    "name the model that it was trained on, and the LoRA as spec.model.adapter to train it further"
)
MAX_HEADERS = 4
"""Weights whose headers are read to find out what a folder holds: the smallest ones."""


def unsupported_pipeline(name: Any, families: Mapping[str, type[Family]]) -> str:
    """Why a pipeline cannot be trained, and what can, to follow the model's source.

    Args:
        name: `_class_name` of model_index.json.
        families: All, by their pipelines.
    """
    if not isinstance(name, str):
        problem = (
            f"has a pipeline of its own ({': '.join(map(str, name))}), and code that comes with a"
            " model is not run"
            if isinstance(name, list) and name
            else "names no pipeline in model_index.json"
        )
        return f"{problem}; {use_a_model_of(families.values())}"
    for family in families.values():
        if purpose := family.other_pipelines.get(name):
            return (
                f"is a {name}, for {purpose}, which cannot be trained; use a text-to-image model of"
                f" {family.name}, such as {family.published[0].source}"
            )
    if others := [families[each] for each in families if _series(each) == _series(name)]:
        names = " or ".join(sorted(family.name for family in others))
        return (
            f"is a {name}, a version that cannot be trained; use {names}, such as"
            f" {others[0].published[0].source}"
        )
    known = (use for use, pattern in PURPOSES.items() if re.search(pattern, name))
    purpose = next(known, None)
    return (
        f"is a {name}, {f'for {purpose}, ' if purpose else ''}which cannot be trained;"
        f" {use_a_model_of(families.values())}"
    )


def _series(pipeline: str) -> str:
    """The name of a pipeline's class without its version: that of Qwen-Image 2.1 is QwenImage."""
    return re.sub(r"[0-9]*Pipeline$", "", pipeline)


def is_lora(tensors: Iterable[str]) -> bool:
    """Whether tensors with these names are those of adapters."""
    return any(mark in name for name in tensors for mark in LORA_TENSORS)


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
        return f"is a LoRA, not a model; {USE_OF_LORA}"
    if lora := _find_lora(files):
        return f"holds a LoRA ({lora}), not a model; {USE_OF_LORA}"
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


def _find_lora(files: ModelFiles) -> str | None:
    """A file with the weights of a LoRA, by its header: published ones have any name."""
    weights = (name for name in files.names if name.endswith(WEIGHTS_SUFFIX))
    for name in sorted(weights, key=lambda name: (files.sizes[name], name))[:MAX_HEADERS]:
        try:
            _, header = read_header(files, name)
        except BadModelError:  # damaged, and so of no known kind
            continue
        if is_lora(header):
            return name
    return None
