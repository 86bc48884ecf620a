"""Random items, poses and pictures; every one a pure function of a seed and an index."""

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinysd import shapes
from tinysd.captions import BACKDROPS, COLOURS, KINDS, PATTERNS, Words
from tinysd.render import Backdrop, Decoration, Item, Pose, Rgb, render

SIZE = 64
Rng = np.random.Generator


@dataclass(frozen=True)
class Drawing:
    """One picture of the data set, (64, 64, 3) uint8, and what a caption may say about it."""

    pixels: NDArray[np.uint8]
    words: Words


@dataclass(frozen=True)
class Freedom:
    """How much pictures vary: the share of patterned objects, and the poses' spread."""

    patterned: float
    shift: float
    scales: tuple[float, float]
    angle: float
    mirrored: float


LOOSE = Freedom(patterned=0.48, shift=0.2, scales=(0.56, 0.8), angle=0.3, mirrored=0.5)
STEADY = Freedom(patterned=0.3, shift=0.1, scales=(0.64, 0.78), angle=0.15, mirrored=0.0)


def random_item(rng: Rng, patterned: float, decorated: bool = False) -> tuple[Item, str]:
    """An individual object and the name of its colour."""
    kind = KINDS[rng.integers(len(KINDS))]
    colour = list(COLOURS)[rng.integers(len(COLOURS))]
    rgb = _jitter(COLOURS[colour], 0.03, rng)
    pattern = PATTERNS[rng.choice(4, p=[1 - patterned, *[patterned / 3] * 3])]
    item = Item(
        kind,
        rgb,
        pattern,
        _accent(colour, rng),
        frequency=float(rng.uniform(1.5, 2.6)),
        turn=float(rng.uniform(0, np.pi)),
        phase=float(rng.uniform()),
    )
    if decorated:
        item = replace(item, decorations=random_decorations(rng))
    return item, colour


def random_pose(rng: Rng, freedom: Freedom) -> Pose:
    """Near the middle, filling about two thirds of the picture, turned a little."""
    return Pose(
        x=float(rng.uniform(-freedom.shift, freedom.shift)),
        y=float(rng.uniform(-0.6 * freedom.shift, freedom.shift)),
        scale=float(rng.uniform(*freedom.scales)),
        angle=float(rng.uniform(-freedom.angle, freedom.angle)),
        mirror=bool(rng.random() < freedom.mirrored),
    )


def random_backdrop(rng: Rng, colour: str) -> Backdrop:
    """Any backdrop on which an object of that colour stands out."""
    hidden = {colour, "snow" if colour == "white" else ""}
    names = [name for name in BACKDROPS if name not in hidden]
    return Backdrop(names[rng.integers(len(names))], int(rng.integers(2**31)))


def draw(seed: int, index: int, freedom: Freedom = LOOSE) -> Drawing:
    """Picture ``index`` of the set ``seed``."""
    rng = np.random.default_rng([seed, index])
    item, colour = random_item(rng, freedom.patterned)
    return _picture(item, colour, random_backdrop(rng, colour), freedom, rng)


def draw_views(seed: int, index: int) -> list[Drawing]:
    """Two pictures of one item, often a decorated one, in other poses and on other backdrops."""
    rng = np.random.default_rng([seed, index])
    item, colour = random_item(rng, LOOSE.patterned, decorated=rng.random() < 0.6)
    backdrops = [random_backdrop(rng, colour) for _ in range(2)]
    return [_picture(item, colour, backdrop, LOOSE, rng) for backdrop in backdrops]


def draw_object(seed: int, index: int, count: int) -> NDArray[np.uint8]:
    """Pictures (count, 64, 64, 3) of one decorated item, in other poses and on other backdrops."""
    rng = np.random.default_rng([seed, index])
    item, colour = random_item(rng, LOOSE.patterned, decorated=True)
    pictures = [
        _picture(item, colour, random_backdrop(rng, colour), LOOSE, rng) for _ in range(count)
    ]
    return np.stack([picture.pixels for picture in pictures])


def _picture(item: Item, colour: str, backdrop: Backdrop, freedom: Freedom, rng: Rng) -> Drawing:
    pixels = render(item, backdrop, random_pose(rng, freedom), SIZE, SIZE)
    return Drawing(pixels, Words(item.kind, colour, item.pattern, backdrop.name))


@dataclass(frozen=True)
class DrawingSet:
    """Many pictures: ``pixels`` (n, 64, 64, 3) uint8 and the words of each of them."""

    pixels: NDArray[np.uint8]
    words: tuple[Words, ...]

    @classmethod
    def of(cls, drawings: Iterable[Drawing]) -> "DrawingSet":
        """Collects drawings into one array."""
        drawings = list(drawings)
        return cls(np.stack([d.pixels for d in drawings]), tuple(d.words for d in drawings))

    def save(self, path: Path) -> None:
        """Writes the set as one .npz file."""
        words = np.array([[w.kind, w.colour, w.pattern, w.backdrop] for w in self.words])
        np.savez(path, pixels=self.pixels, words=words)

    @classmethod
    def load(cls, path: Path) -> "DrawingSet":
        """Reads what ``save`` wrote."""
        with np.load(path) as file:
            return cls(file["pixels"], tuple(Words(*map(str, row)) for row in file["words"]))


def draw_set(seed: int, count: int, freedom: Freedom = LOOSE, workers: int = 2) -> DrawingSet:
    """The first ``count`` pictures of the set ``seed``."""
    with ProcessPoolExecutor(workers) as pool:
        one = partial(draw, seed, freedom=freedom)
        return DrawingSet.of(pool.map(one, range(count), chunksize=250))


def draw_view_set(seed: int, items: int, workers: int = 2) -> DrawingSet:
    """Two views of each item, side by side: pictures 2i and 2i + 1 show the same object."""
    with ProcessPoolExecutor(workers) as pool:
        pairs = pool.map(partial(draw_views, seed), range(items), chunksize=250)
        return DrawingSet.of(drawing for pair in pairs for drawing in pair)


def _jitter(rgb: Rgb, amount: float, rng: Rng) -> Rgb:
    red, green, blue = np.clip(np.array(rgb) + rng.uniform(-amount, amount, 3), 0, 1)
    return float(red), float(green), float(blue)


def _accent(colour: str, rng: Rng) -> Rgb:
    """The pattern's second tone: white or near black, whichever keeps the colour's name true."""
    if colour == "white":
        return (0.62, 0.62, 0.65)
    if colour in ("yellow", "pink") or rng.random() < 0.3:
        return (0.2, 0.18, 0.2)
    return (0.95, 0.95, 0.95)


def random_decorations(rng: Rng) -> tuple[Decoration, ...]:
    """Details for the autoencoder and CLIP only; the diffusion model never sees any."""
    makers = (_face, _band, _zigzag, _emblem, _blobs, _cap)
    count = int(rng.choice([1, 2, 3], p=[0.5, 0.4, 0.1]))
    chosen = rng.choice(len(makers), size=count, replace=False)
    return tuple(part for number in sorted(chosen)[::-1] for part in makers[number](rng))


def _any_rgb(rng: Rng) -> Rgb:
    if rng.random() < 0.35:
        tone = float(rng.choice([0.08, 0.95]))
        return (tone, tone, tone)
    red, green, blue = rng.uniform(0, 1, 3)
    return float(red), float(green), float(blue)


def _face(rng: Rng) -> list[Decoration]:
    rgb, x, y = _any_rgb(rng), rng.uniform(-0.3, 0.2), rng.uniform(-0.1, 0.3)
    size, mood = rng.uniform(0.7, 1.3), rng.choice([0.0, np.pi])
    eyes = [
        shapes.ellipse(x + s * 0.22 * size, y - 0.2 * size, 0.1 * size, 0.12 * size)
        for s in (-1, 1)
    ]
    centre = y + (0.0 if mood == 0 else 0.4) * size
    mouth = shapes.arc(x, centre, 0.3 * size, 0.12 * size, mood + 0.4, mood + np.pi - 0.4)
    return [Decoration(points, rgb) for points in (*eyes, mouth)]


def _band(rng: Rng) -> list[Decoration]:
    y, half = rng.uniform(-0.4, 0.6), rng.uniform(0.1, 0.25)
    return [Decoration(shapes.box(-1.2, y - half, 1.2, y + half), _any_rgb(rng))]


def _zigzag(rng: Rng) -> list[Decoration]:
    y, half, rise = rng.uniform(-0.3, 0.5), rng.uniform(0.08, 0.15), rng.uniform(0.12, 0.25)
    x = np.linspace(-1.2, 1.2, int(rng.integers(7, 14)))
    ridge = y + rise * np.where(np.arange(len(x)) % 2 == 0, -1, 1)
    upper, lower = np.stack([x, ridge - half], 1), np.stack([x, ridge + half], 1)
    return [Decoration(np.concatenate([upper, lower[::-1]]), _any_rgb(rng))]


def _emblem(rng: Rng) -> list[Decoration]:
    x, y, r = rng.uniform(-0.4, 0.3), rng.uniform(-0.2, 0.5), float(rng.uniform(0.25, 0.42))
    outlines = (
        shapes.star(x, y, r),
        shapes.heart(x, y, r),
        shapes.arc(x, y, r * 0.8, r * 0.4, 0, 2 * np.pi),
        shapes.polygon((x, y - r), (x + r, y + r), (x - r, y + r)),
        shapes.star(x, y, r, tips=4, inner=0.3),
        shapes.ellipse(x, y, r, r),
    )
    return [Decoration(outlines[rng.integers(len(outlines))], _any_rgb(rng))]


def _blobs(rng: Rng) -> list[Decoration]:
    rgb = _any_rgb(rng)
    places = rng.uniform(-0.8, 0.8, (int(rng.integers(4, 9)), 2))
    return [
        Decoration(shapes.ellipse(x, y, rng.uniform(0.1, 0.25), rng.uniform(0.1, 0.25)), rgb)
        for x, y in places
    ]


def _cap(rng: Rng) -> list[Decoration]:
    level = rng.uniform(-0.5, 0.5)
    return [Decoration(shapes.box(-1.2, -1.2, 1.2, level), _any_rgb(rng))]
