"""All families: name -> module with `FACTS`, `PARTS` and `build`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import diffusers
import transformers
from diffusers import DiffusionPipeline
from transformers import AutoTokenizer
from transformers.utils import is_torchvision_available

from tests.corpus.families import (
    chroma,
    flux,
    flux2,
    flux2_klein,
    krea2,
    lumina2,
    qwen_image,
    qwen_image21,
    sana,
    sd3,
    sdxl,
    z_image,
)
from tests.corpus.families.facts import FamilyFacts
from tests.corpus.families.parts import Part


class FamilyModule(Protocol):
    """What a module of this folder defines."""

    FACTS: FamilyFacts
    INDEX: Mapping[str, Any]
    PARTS: Mapping[str, Part]

    @staticmethod
    def build(folder: Path, seed: int = 0) -> None:
        """Write a tiny random model of the family in its published layout."""


FAMILIES: dict[str, FamilyModule] = {
    "sdxl": sdxl,
    "flux": flux,
    "z_image": z_image,
    "flux2_klein": flux2_klein,
    "sd3": sd3,
    "qwen_image": qwen_image,
    "krea2": krea2,
    "sana": sana,
    "flux2": flux2,
    "qwen_image21": qwen_image21,
    "chroma": chroma,
    "lumina2": lumina2,
}


class TextProcessor:
    """Qwen3VLProcessor's part for text."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, text: list[str], **options: Any) -> Any:
        """Token ids and masks."""
        return self.tokenizer(text, **options)

    def apply_chat_template(self, messages: list[dict[str, Any]], **options: Any) -> Any:
        """A conversation's token ids, as a batch of one."""
        return self.tokenizer.apply_chat_template([messages], **options)


def load_pipeline(folder: Path) -> Any:
    """Load a model with plain diffusers.

    Processors of images need torchvision. Where that is missing, the tokenizer in the same folder
    takes their place: it makes the same tokens of text.
    """
    index = json.loads((folder / "model_index.json").read_text())
    needing = {
        name
        for name, value in index.items()
        if isinstance(value, list) and str(value[1]).endswith("Processor")
    }
    if not needing or is_torchvision_available():
        return DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    [name] = needing
    tokenizer = AutoTokenizer.from_pretrained(folder / name, local_files_only=True)
    if name == "tokenizer":
        pipeline = DiffusionPipeline.from_pretrained(folder, tokenizer=None, local_files_only=True)
        pipeline.register_modules(tokenizer=tokenizer)
        return pipeline
    return _assemble(folder, index, processor=TextProcessor(tokenizer))


def _assemble(folder: Path, index: dict[str, Any], **given: Any) -> Any:
    """A pipeline whose class needs a component when it is made."""
    for name, value in index.items():
        if isinstance(value, list) and name not in given:
            library = diffusers if value[0] == "diffusers" else transformers
            given[name] = getattr(library, value[1]).from_pretrained(folder / name)
    return getattr(diffusers, index["_class_name"])(**given)
