"""All families: name -> module with `FACTS`, `PARTS` and `build`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from tests.corpus.families import flux, flux2_klein, krea2, qwen_image, sana, sd3, sdxl, z_image
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
}
