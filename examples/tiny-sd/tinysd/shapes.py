"""The silhouettes of the object classes, as polygons in the object's own frame.

Coordinates run from about -1 to 1 on both axes, x to the right and y downwards. A part's role names
the paint it gets: ``body`` parts carry the object's colour and pattern, the others a fixed tone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """One filled polygon: ``points`` has shape (n, 2); ``role`` names its paint."""

    role: str
    points: Points


def polygon(*corners: tuple[float, float]) -> Points:
    """Corners as an array of shape (n, 2)."""
    return np.array(corners, dtype=np.float64)


def box(left: float, top: float, right: float, bottom: float) -> Points:
    """An upright rectangle."""
    return polygon((left, top), (right, top), (right, bottom), (left, bottom))


def ellipse(x: float, y: float, rx: float, ry: float, turn: float = 0.0) -> Points:
    """An ellipse round (x, y), turned by ``turn`` radians."""
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    u, v = rx * np.cos(angle), ry * np.sin(angle)
    return np.stack(
        [x + u * np.cos(turn) - v * np.sin(turn), y + u * np.sin(turn) + v * np.cos(turn)], axis=1
    )


def arc(x: float, y: float, radius: float, width: float, start: float, end: float) -> Points:
    """A thick arc from angle ``start`` to ``end`` (radians, clockwise on the screen)."""
    angle = np.linspace(start, end, 24)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    middle = np.array([x, y])
    return np.concatenate(
        [middle + (radius + width / 2) * ring, middle + (radius - width / 2) * ring[::-1]]
    )


def star(x: float, y: float, radius: float, tips: int = 5, inner: float = 0.45) -> Points:
    """A star with ``tips`` tips, one of them pointing up."""
    angle = np.arange(2 * tips) * np.pi / tips - np.pi / 2
    reach = np.where(np.arange(2 * tips) % 2 == 0, radius, radius * inner)
    return np.stack([x + reach * np.cos(angle), y + reach * np.sin(angle)], axis=1)


def heart(x: float, y: float, radius: float) -> Points:
    """A heart, tip down."""
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    u = 16 * np.sin(t) ** 3
    v = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x + radius * u / 16, y - radius * (v + 2) / 16], axis=1)


def _mug() -> list[Part]:
    return [
        Part("shade", arc(0.5, 0.05, 0.38, 0.2, -1.5, 1.5)),
        Part("body", polygon((-0.8, -0.7), (0.5, -0.7), (0.42, 0.85), (-0.72, 0.85))),
        Part("body", ellipse(-0.15, 0.85, 0.57, 0.1)),
        Part("light", ellipse(-0.15, -0.7, 0.65, 0.17)),
        Part("dark", ellipse(-0.15, -0.68, 0.54, 0.11)),
    ]


def _house() -> list[Part]:
    return [
        Part("shade", box(0.35, -0.9, 0.6, -0.3)),
        Part("body", box(-0.8, -0.15, 0.8, 0.9)),
        Part("shade", polygon((-1.0, -0.1), (0.0, -0.95), (1.0, -0.1))),
        Part("dark", box(-0.5, 0.3, -0.1, 0.9)),
        Part("light", box(0.2, 0.15, 0.6, 0.5)),
    ]


def _fish() -> list[Part]:
    return [
        Part("shade", polygon((0.45, 0.0), (1.0, -0.55), (0.85, 0.0), (1.0, 0.55))),
        Part("shade", polygon((-0.3, -0.35), (0.05, -0.8), (0.35, -0.3))),
        Part("body", ellipse(-0.2, 0.0, 0.8, 0.5)),
        Part("light", ellipse(-0.66, -0.12, 0.13, 0.13)),
        Part("dark", ellipse(-0.68, -0.12, 0.07, 0.07)),
    ]


def _tree() -> list[Part]:
    return [
        Part("wood", box(-0.14, 0.45, 0.14, 1.0)),
        Part("body", polygon((-0.75, 0.6), (0.0, -0.2), (0.75, 0.6))),
        Part("body", polygon((-0.62, 0.15), (0.0, -0.6), (0.62, 0.15))),
        Part("body", polygon((-0.48, -0.3), (0.0, -1.0), (0.48, -0.3))),
    ]


def _car() -> list[Part]:
    return [
        Part("body", polygon((-0.55, 0.0), (-0.35, -0.5), (0.35, -0.5), (0.6, 0.0))),
        Part("body", polygon((-1.0, 0.0), (0.85, -0.05), (1.0, 0.1), (1.0, 0.45), (-1.0, 0.45))),
        Part("light", polygon((-0.4, -0.02), (-0.27, -0.38), (-0.04, -0.38), (-0.04, -0.02))),
        Part("light", polygon((0.06, -0.02), (0.06, -0.38), (0.28, -0.38), (0.44, -0.02))),
        Part("dark", ellipse(-0.55, 0.45, 0.25, 0.25)),
        Part("dark", ellipse(0.55, 0.45, 0.25, 0.25)),
        Part("grey", ellipse(-0.55, 0.45, 0.1, 0.1)),
        Part("grey", ellipse(0.55, 0.45, 0.1, 0.1)),
    ]


def _star() -> list[Part]:
    return [Part("body", star(0.0, 0.08, 1.0))]


def _ball() -> list[Part]:
    return [
        Part("body", ellipse(0.0, 0.0, 0.85, 0.85)),
        Part("dark", arc(-1.0, 0.0, 0.85, 0.07, -0.6, 0.6)),
        Part("dark", arc(1.0, 0.0, 0.85, 0.07, np.pi - 0.6, np.pi + 0.6)),
    ]


def _flower() -> list[Part]:
    turns = np.arange(6) * np.pi / 3
    petals = [
        Part("body", ellipse(0.42 * np.cos(a), 0.42 * np.sin(a) - 0.35, 0.34, 0.22, a))
        for a in turns
    ]
    stem = [
        Part("leaf", box(-0.07, -0.2, 0.07, 1.0)),
        Part("leaf", ellipse(0.27, 0.6, 0.28, 0.11, -0.5)),
    ]
    return [*stem, *petals, Part("wood", ellipse(0.0, -0.35, 0.2, 0.2))]


def _boat() -> list[Part]:
    return [
        Part("wood", box(-0.07, -0.95, 0.03, 0.4)),
        Part("body", polygon((0.08, -0.9), (0.85, 0.2), (0.08, 0.2))),
        Part("light", polygon((-0.12, -0.7), (-0.12, 0.2), (-0.65, 0.2))),
        Part("body", polygon((-1.0, 0.3), (1.0, 0.3), (0.65, 0.85), (-0.65, 0.85))),
    ]


def _heart() -> list[Part]:
    return [Part("body", heart(0.0, 0.05, 0.92))]


SHAPES: dict[str, Callable[[], list[Part]]] = {
    "mug": _mug,
    "house": _house,
    "fish": _fish,
    "tree": _tree,
    "car": _car,
    "star": _star,
    "ball": _ball,
    "flower": _flower,
    "boat": _boat,
    "heart": _heart,
}
