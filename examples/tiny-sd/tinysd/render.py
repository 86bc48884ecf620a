"""Draws a scene: one object in a pose on a background, antialiased, as an RGB array."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tinysd.shapes import SHAPES, Part, Points

Rgb = tuple[float, float, float]
Plane = NDArray[np.float32]
SUPERSAMPLING = 4

TONES: dict[str, Rgb] = {
    "dark": (0.13, 0.12, 0.15),
    "light": (0.93, 0.94, 0.9),
    "grey": (0.6, 0.6, 0.62),
    "wood": (0.42, 0.27, 0.15),
    "leaf": (0.22, 0.45, 0.18),
}


@dataclass(frozen=True)
class Decoration:
    """A painted detail in the object's frame, clipped to the body of the object."""

    points: Points
    rgb: Rgb


@dataclass(frozen=True)
class Item:
    """One individual object: what stays the same in all pictures of it."""

    kind: str
    rgb: Rgb
    pattern: str = "plain"
    accent: Rgb = (1.0, 1.0, 1.0)
    frequency: float = 2.5
    turn: float = 0.0
    phase: float = 0.0
    decorations: tuple[Decoration, ...] = field(default=())


@dataclass(frozen=True)
class Pose:
    """Where the object stands: centre and half size in units of the picture's shorter half side."""

    x: float = 0.0
    y: float = 0.0
    scale: float = 0.7
    angle: float = 0.0
    mirror: bool = False


@dataclass(frozen=True)
class Backdrop:
    """A background by name with the random numbers that vary it."""

    name: str
    seed: int = 0


def render(
    item: Item, backdrop: Backdrop, pose: Pose, width: int, height: int
) -> NDArray[np.uint8]:
    """The picture as uint8 of shape (height, width, 3); a pure function of its arguments."""
    wide, high = width * SUPERSAMPLING, height * SUPERSAMPLING
    x, y = _grid(wide, high)
    u, v = _into_object_frame(x, y, pose)
    picture = _paint_backdrop(backdrop, x, y)
    picture *= 1 - 0.35 * np.exp(-((u / 0.9) ** 2) - ((v - 1.0) / 0.22) ** 2)[..., None]
    parts = SHAPES[item.kind]()
    which = _index_map([part.points for part in parts], pose, wide, high)
    paint = _paint_item(item, parts, which, u, v)
    if item.decorations:
        _decorate(paint, item, _body_mask(parts, which), pose)
    light = np.clip(1.05 - 0.12 * u - 0.14 * v, 0.7, 1.25)[..., None]
    picture = np.where(which[..., None] > 0, paint * light, picture)
    return _downsample(picture, height, width)


def _grid(wide: int, high: int) -> tuple[Plane, Plane]:
    """Pixel centres in units of the shorter half side, (0, 0) in the middle: two (high, wide)."""
    half = min(wide, high) / 2
    x = (np.arange(wide, dtype=np.float32) + 0.5 - wide / 2) / half
    y = (np.arange(high, dtype=np.float32) + 0.5 - high / 2) / half
    return np.broadcast_to(x, (high, wide)), np.broadcast_to(y[:, None], (high, wide))


def _into_object_frame(x: Plane, y: Plane, pose: Pose) -> tuple[Plane, Plane]:
    cos, sin = np.float32(np.cos(pose.angle)), np.float32(np.sin(pose.angle))
    dx, dy = (x - np.float32(pose.x)) / pose.scale, (y - np.float32(pose.y)) / pose.scale
    u, v = dx * cos + dy * sin, dy * cos - dx * sin
    return (-u if pose.mirror else u), v


def _onto_canvas(points: Points, pose: Pose, wide: int, high: int) -> list[tuple[float, float]]:
    u = -points[:, 0] if pose.mirror else points[:, 0]
    v = points[:, 1]
    cos, sin = np.cos(pose.angle), np.sin(pose.angle)
    half = min(wide, high) / 2
    px = (pose.x + pose.scale * (u * cos - v * sin)) * half + wide / 2
    py = (pose.y + pose.scale * (u * sin + v * cos)) * half + high / 2
    return [(float(a), float(b)) for a, b in zip(px, py, strict=True)]


def _index_map(polygons: list[Points], pose: Pose, wide: int, high: int) -> NDArray[np.uint8]:
    """Which polygon is on top at each pixel, counted from 1; 0 where there is none."""
    canvas = Image.new("L", (wide, high))
    brush = ImageDraw.Draw(canvas)
    for number, points in enumerate(polygons, start=1):
        brush.polygon(_onto_canvas(points, pose, wide, high), fill=number)
    return np.asarray(canvas)


def _body_mask(parts: list[Part], which: NDArray[np.uint8]) -> NDArray[np.bool_]:
    is_body = np.array([False] + [part.role == "body" for part in parts])
    return np.asarray(is_body[which])


def _paint_item(
    item: Item, parts: list[Part], which: NDArray[np.uint8], u: Plane, v: Plane
) -> Plane:
    """Colours of the object's pixels, (high, wide, 3)."""
    rgb = np.array(item.rgb, dtype=np.float32)
    tones = {"body": rgb, "shade": rgb * 0.72, **TONES}
    table = np.array([(0.0, 0.0, 0.0)] + [tones[part.role] for part in parts], dtype=np.float32)
    paint = table[which]
    if item.pattern != "plain":
        inked = _pattern(item, u, v) & _body_mask(parts, which)
        paint[inked] = item.accent
    return paint


def _pattern(item: Item, u: Plane, v: Plane) -> NDArray[np.bool_]:
    cos, sin = np.float32(np.cos(item.turn)), np.float32(np.sin(item.turn))
    a = (u * cos + v * sin) * item.frequency + item.phase
    b = (v * cos - u * sin) * item.frequency + item.phase
    if item.pattern == "striped":
        return np.asarray(a % 1 < 0.38)
    if item.pattern == "dotted":
        return np.asarray((a % 1 - 0.5) ** 2 + (b % 1 - 0.5) ** 2 < 0.075)
    if item.pattern == "checkered":
        return np.asarray((a % 1 < 0.5) ^ (b % 1 < 0.5))
    raise ValueError(f"unknown pattern {item.pattern!r}")


def _decorate(paint: Plane, item: Item, body: NDArray[np.bool_], pose: Pose) -> None:
    high, wide = body.shape
    which = _index_map([d.points for d in item.decorations], pose, wide, high)
    table = np.array([(0.0, 0.0, 0.0)] + [d.rgb for d in item.decorations], dtype=np.float32)
    inked = (which > 0) & body
    paint[inked] = table[which[inked]]


PLAIN_BACKDROPS: dict[str, Rgb] = {
    "gray": (0.55, 0.56, 0.58),
    "blue": (0.42, 0.6, 0.84),
    "green": (0.5, 0.72, 0.5),
    "yellow": (0.93, 0.86, 0.56),
    "black": (0.13, 0.13, 0.16),
}
SCENES: dict[str, tuple[Rgb, Rgb]] = {
    "grass": ((0.62, 0.8, 0.95), (0.35, 0.6, 0.22)),
    "sand": ((0.55, 0.78, 0.93), (0.88, 0.77, 0.53)),
    "snow": ((0.66, 0.72, 0.82), (0.92, 0.94, 0.97)),
    "night": ((0.07, 0.09, 0.25), (0.13, 0.17, 0.2)),
    "wood": ((0.83, 0.78, 0.7), (0.56, 0.38, 0.22)),
}


def _paint_backdrop(backdrop: Backdrop, x: Plane, y: Plane) -> Plane:
    rng = np.random.default_rng(backdrop.seed)
    if backdrop.name in PLAIN_BACKDROPS:
        base = np.array(PLAIN_BACKDROPS[backdrop.name], dtype=np.float32)
        base = base + rng.uniform(-0.04, 0.04, 3).astype(np.float32)
        return np.asarray(base * (1 - 0.1 * y[..., None]), dtype=np.float32)
    above, below = (np.array(rgb, dtype=np.float32) for rgb in SCENES[backdrop.name])
    horizon = rng.uniform(0.0, 0.35)
    ground = y > horizon
    picture = np.where(ground[..., None], below, above * (1 + 0.12 * y[..., None]))
    return np.asarray(picture * _texture(backdrop.name, ground, x, y, rng)[..., None], np.float32)


def _texture(
    name: str, ground: NDArray[np.bool_], x: Plane, y: Plane, rng: np.random.Generator
) -> Plane:
    """Brightness factors that tell the grounds apart: blades, planks, ripples, stars."""
    phase = rng.uniform(0, 6.28, 3)
    if name == "wood":
        return np.where(ground & ((y * 5 + phase[0]) % 1 < 0.12), 0.72, 1.0).astype(np.float32)
    if name == "grass":
        blades = np.sin(x * 23 + phase[0] + 2 * np.sin(y * 9)) * np.sin(y * 17 + phase[1])
        return np.where(ground, 1 + 0.18 * blades, 1.0).astype(np.float32)
    if name == "sand":
        ripples = np.sin(y * 22 + 1.2 * np.sin(x * 4 + phase[0]))
        return np.where(ground, 1 + 0.05 * ripples, 1.0).astype(np.float32)
    factor = np.ones_like(y)
    if name == "night":
        for cx, cy in zip(rng.uniform(-1, 1, 7), rng.uniform(-1, 0.1, 7), strict=True):
            factor += 5.0 * ((x - cx) ** 2 + (y - cy) ** 2 < 0.0012)
    return factor


def _downsample(picture: Plane, height: int, width: int) -> NDArray[np.uint8]:
    blocks = picture.reshape(height, SUPERSAMPLING, width, SUPERSAMPLING, 3)
    return np.asarray(np.clip(blocks.mean(axis=(1, 3)) * 255 + 0.5, 0, 255), dtype=np.uint8)
