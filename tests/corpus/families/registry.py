"""All families: name -> module with `FACTS`, `PARTS` and `build`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from diffusers import DiffusionPipeline
from transformers import AutoTokenizer
from transformers.utils import is_torchvision_available

from tests.corpus.families import (
    flux,
    flux2,
    flux2_klein,
    krea2,
    qwen_image,
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
}


def load_pipeline(folder: Path) -> Any:
    """Load a model with plain diffusers.

    Pixtral's processor needs torchvision. Where that is missing, the tokenizer in the same folder
    takes its place: it makes the same tokens of text.
    """
    index = json.loads((folder / "model_index.json").read_text())
    if index.get("tokenizer", [None, None])[1] != "PixtralProcessor" or is_torchvision_available():
        return DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline = DiffusionPipeline.from_pretrained(folder, tokenizer=None, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    pipeline.register_modules(tokenizer=tokenizer)
    return pipeline
