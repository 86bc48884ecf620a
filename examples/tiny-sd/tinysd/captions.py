"""The vocabulary of the data set, and captions as varied as a user's prompts."""

from dataclasses import dataclass

import numpy as np

from tinysd.render import PLAIN_BACKDROPS, SCENES, Rgb
from tinysd.shapes import SHAPES

KINDS = tuple(SHAPES)
COLOURS: dict[str, Rgb] = {
    "red": (0.86, 0.1, 0.12),
    "orange": (0.98, 0.52, 0.04),
    "yellow": (0.97, 0.88, 0.1),
    "green": (0.1, 0.58, 0.18),
    "blue": (0.1, 0.27, 0.85),
    "purple": (0.48, 0.14, 0.68),
    "pink": (1.0, 0.52, 0.74),
    "white": (0.95, 0.95, 0.95),
}
PATTERNS = ("plain", "striped", "dotted", "checkered")
BACKDROPS = (*PLAIN_BACKDROPS, *SCENES)
OPENINGS = ("a photo of ", "", "a picture of ")
_PLACES = {
    "grass": "on grass",
    "sand": "on the beach",
    "snow": "in the snow",
    "night": "at night",
    "wood": "on a wooden table",
}


@dataclass(frozen=True)
class Words:
    """What a caption may name: each field is a word of the vocabulary, or None to leave it out."""

    kind: str
    colour: str | None = None
    pattern: str | None = None
    backdrop: str | None = None


def place(backdrop: str) -> str:
    """A backdrop as words: "on grass", "on a blue background"."""
    return _PLACES.get(backdrop, f"on a {backdrop} background")


def caption(words: Words, opening: str = "a photo of ") -> str:
    """For example "a photo of a red striped mug on grass"."""
    adjectives = [words.colour, words.pattern if words.pattern != "plain" else None]
    noun = " ".join([word for word in adjectives if word] + [words.kind])
    article = "an" if noun[0] in "aeiou" else "a"
    where = f" {place(words.backdrop)}" if words.backdrop else ""
    return f"{opening}{article} {noun}{where}"


def random_caption(full: Words, rng: np.random.Generator) -> str:
    """A caption of a picture that names only some of what is in it, as people do.

    A few captions hold a made-up word before the noun, so that a rare word in a prompt neither
    surprises the model nor means anything to it.
    """
    keep = rng.random(4)
    words = Words(
        full.kind,
        full.colour if keep[0] < 0.8 else None,
        full.pattern if keep[1] < 0.7 else None,
        full.backdrop if keep[2] < 0.65 else None,
    )
    opening = str(rng.choice(OPENINGS, p=[0.75, 0.15, 0.1]))
    text = caption(words, opening)
    return text.replace(full.kind, f"{_made_up(rng)} {full.kind}") if keep[3] < 0.05 else text


def _made_up(rng: np.random.Generator) -> str:
    return "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), size=rng.integers(2, 5)))
