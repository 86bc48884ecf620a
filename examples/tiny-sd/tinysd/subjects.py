"""The examples' subjects: single objects with details that the diffusion model never saw."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from tinysd import shapes
from tinysd.captions import BACKDROPS
from tinysd.dataset import LOOSE, random_pose
from tinysd.render import Backdrop, Decoration, Item, Pose, Rgb, render

TRAINING, HELD_OUT = 5, 8
EXIF_ORIENTATION, TURNED_LEFT = 0x0112, 6


@dataclass(frozen=True)
class Subject:
    """One object to learn: its class noun and how it looks."""

    noun: str
    item: Item


def _zigzag(y: float, rise: float, half: float, rgb: Rgb, tips: int = 9) -> Decoration:
    x = np.linspace(-1.2, 1.2, tips)
    ridge = y + rise * np.where(np.arange(tips) % 2 == 0, -1, 1)
    upper, lower = np.stack([x, ridge - half], 1), np.stack([x, ridge + half], 1)
    return Decoration(np.concatenate([upper, lower[::-1]]), rgb)


def _smile(x: float, y: float, size: float, rgb: Rgb) -> tuple[Decoration, ...]:
    eyes = [
        shapes.ellipse(x + s * 0.24 * size, y - 0.22 * size, 0.1 * size, 0.13 * size)
        for s in (-1, 1)
    ]
    mouth = shapes.arc(x, y, 0.32 * size, 0.13 * size, 0.35, np.pi - 0.35)
    return tuple(Decoration(points, rgb) for points in (*eyes, mouth))


_NAVY, _CREAM, _TEAL = (0.08, 0.1, 0.3), (0.98, 0.94, 0.82), (0.05, 0.6, 0.58)
_TANGERINE, _MAGENTA, _GOLD = (0.98, 0.45, 0.1), (0.85, 0.1, 0.45), (0.95, 0.72, 0.1)
_LAVENDER, _CRIMSON, _PLUM = (0.72, 0.6, 0.95), (0.6, 0.05, 0.12), (0.42, 0.08, 0.32)

SUBJECTS: dict[str, Subject] = {
    "smiling-mug": Subject(
        "mug",
        Item(
            "mug",
            _TEAL,
            decorations=(
                *_smile(-0.17, 0.05, 1.25, _CREAM),
                Decoration(shapes.box(-1.2, 0.5, 1.2, 1.2), _NAVY),
                _zigzag(0.52, 0.1, 0.12, _TANGERINE),
            ),
        ),
    ),
    "banded-fish": Subject(
        "fish",
        Item(
            "fish",
            _MAGENTA,
            decorations=(
                Decoration(shapes.box(-0.5, -1.0, -0.22, 1.0), _CREAM),
                Decoration(shapes.box(0.08, -1.0, 0.35, 1.0), _NAVY),
            ),
        ),
    ),
    "zigzag-house": Subject(
        "house",
        Item(
            "house",
            _LAVENDER,
            decorations=(
                _zigzag(-0.02, 0.1, 0.13, _CRIMSON, tips=9),
                Decoration(shapes.box(-1.0, 0.62, 1.0, 1.0), _CRIMSON),
            ),
        ),
    ),
    "smiling-star": Subject(
        "star",
        Item(
            "star",
            _GOLD,
            decorations=(
                Decoration(shapes.box(-1.2, -1.2, 1.2, -0.32), _PLUM),
                *_smile(0.0, 0.2, 1.05, _NAVY),
                Decoration(shapes.box(-1.2, 0.62, 1.2, 1.2), _TEAL),
            ),
        ),
    ),
}


def write_subjects(folder: Path) -> None:
    """Draws every subject's training pictures and held-out pictures below ``folder``.

    Picture 3 is wider than high; picture 4 is stored on its side with an EXIF tag that says so.
    """
    for number, (name, subject) in enumerate(SUBJECTS.items()):
        views = _views(number)
        (folder / name / "held-out").mkdir(parents=True, exist_ok=True)
        for index in range(TRAINING):
            width = 384 if index == 3 else 288
            image = Image.fromarray(render(subject.item, *next(views), width, 288))
            _save_photo(image, folder / name / f"{index}.jpg", on_its_side=index == 4)
        for index in range(HELD_OUT):
            image = Image.fromarray(render(subject.item, *next(views), 128, 128))
            image.save(folder / name / "held-out" / f"{index}.png")


def _views(number: int) -> Iterator[tuple[Backdrop, Pose]]:
    """Endless poses and backdrops; every backdrop comes once before any comes again."""
    rng = np.random.default_rng([77, number])
    while True:
        for name in rng.permutation(BACKDROPS):
            pose = replace(random_pose(rng, LOOSE), mirror=False)
            yield Backdrop(str(name), int(rng.integers(2**31))), pose


def _save_photo(image: Image.Image, path: Path, on_its_side: bool) -> None:
    exif = Image.Exif()
    if on_its_side:
        exif[EXIF_ORIENTATION] = TURNED_LEFT
        image = image.transpose(Image.Transpose.ROTATE_90)
    image.save(path, quality=92, exif=exif)
