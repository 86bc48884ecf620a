"""Fonts for labels in any script."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont
from PIL.ImageFont import FreeTypeFont

FOLDERS = (
    Path("/usr/share/fonts"),
    Path("/usr/local/share/fonts"),
    Path.home() / ".local/share/fonts",
    Path("/System/Library/Fonts"),
    Path("/Library/Fonts"),
)
"""Where Linux and macOS keep their fonts."""

SUFFIXES = (".ttf", ".ttc", ".otf")
UNASSIGNED = "\U0010fffe"
"""A code point that no font has: it is drawn as the sign for a missing letter."""


def choose_font(text: str, size: int) -> ImageFont.ImageFont | FreeTypeFont:
    """Pillow's own font where it has every letter, else the installed font that has most.

    Pillow's font has those of ASCII.
    """
    own = ImageFont.load_default(size)
    letters = frozenset(letter for letter in text if not letter.isspace())
    if all(letter.isascii() for letter in letters):
        return own
    best: ImageFont.ImageFont | FreeTypeFont = own
    fewest = len(missing_letters(letters, own))
    for font in _installed(size):
        missing = len(missing_letters(letters, font))
        if missing < fewest:
            best, fewest = font, missing
        if not missing:
            break
    return best


def missing_letters(
    letters: frozenset[str], font: ImageFont.ImageFont | FreeTypeFont
) -> frozenset[str]:
    """The letters that a font lacks."""
    absent = bytes(font.getmask(UNASSIGNED))
    return frozenset(letter for letter in letters if bytes(font.getmask(letter)) == absent)


@lru_cache(maxsize=1)
def _installed_files() -> tuple[Path, ...]:
    found = (path for folder in FOLDERS if folder.is_dir() for path in folder.rglob("*"))
    return tuple(sorted(path for path in found if path.suffix.lower() in SUFFIXES))


def _installed(size: int) -> Iterator[FreeTypeFont]:
    for path in _installed_files():
        try:
            font = ImageFont.truetype(path, size)
            font.getmask("a")
        except (OSError, ValueError):  # a damaged font, or one of a kind that FreeType cannot draw
            continue
        yield font
