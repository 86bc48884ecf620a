"""Shapes of images that are not cropped to squares: aspect-ratio buckets.

Images of one shape make a bucket, as those of one forward pass must have the same shape.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from math import ceil

from dreambooth_trainer.data.crops import Size
from dreambooth_trainer.data.images import SourceImage, reduced_size

MAX_RATIO = 4.0
"""Of the longer to the shorter side; longer images are cropped, as no model was trained on them."""
LEAST_AREA = 0.75
"""Of a shape's area to that of the square."""
AREA_WEIGHT = 0.2
"""Loss of a shape for area that it lacks, where 1 is the loss for area that it crops."""


def nearest_shape(size: Size, resolution: int, step: int) -> Size:
    """The shape in which an image is trained on, in pixels.

    Its sides are multiples of `step`, and its area is that of the square or up to a quarter less:
    so the square takes the most memory. Unless one side is more than `MAX_RATIO` times as long as
    the other, a smaller part of the image is cropped than `step` is of the shorter side.

    Args:
        size: Of the image.
        resolution: Side of the square.
        step: Of the model, see `Family.resolution_step`.
    """
    width, height = size
    ratio = min(max(width / height, 1 / MAX_RATIO), MAX_RATIO)
    # Of a resolution that is no multiple, the largest square that fits: else a square image could
    # not have a shape of its own.
    cells = _nearest(round(ratio, 4), max(1, resolution // step))
    return cells[0] * step, cells[1] * step


@lru_cache(maxsize=1024)
def _nearest(ratio: float, side: int) -> tuple[int, int]:
    """The best width and height in steps; `side` is that of the square."""
    area = side**2

    def loss(cells: tuple[int, int]) -> tuple[float, int]:
        relative = cells[0] / cells[1] / ratio
        cropped = 1 - min(relative, 1 / relative)
        return round(cropped + AREA_WEIGHT * (1 - cells[0] * cells[1] / area), 9), -cells[0]

    longest = int(side * MAX_RATIO)
    candidates = [
        (width, height)
        for width in range(1, longest + 1)
        for height in range(max(1, ceil(area * LEAST_AREA / width)), int(area / width) + 1)
    ]
    return min(candidates, key=loss)


def nearest_of(size: Size, shapes: Iterable[Size]) -> Size:
    """Of the given shapes, that which crops least of an image."""
    ratio = size[0] / size[1]

    def cropped(shape: Size) -> tuple[float, Size]:
        relative = shape[0] / shape[1] / ratio
        return 1 - min(relative, 1 / relative), shape

    return min(shapes, key=cropped)


def fit(image: SourceImage, shape: Size) -> SourceImage:
    """The image, to be read no larger than its shape needs."""
    return replace(image, size=reduced_size(image.size, shape))


def divide(count: int, shares: Sequence[float]) -> list[int]:
    """`count` in parts in proportion to the shares, of at least 1 each.

    The parts add up to more where there are more shares than `count`.
    """
    total = sum(shares)
    exact = [count * share / total for share in shares]
    parts = [max(1, int(each)) for each in exact]
    by_rest = sorted(range(len(parts)), key=lambda i: parts[i] - exact[i])
    for i in by_rest[: max(0, count - sum(parts))]:
        parts[i] += 1
    for _ in range(sum(parts) - max(count, len(parts))):  # what small shares have too much
        i = max(range(len(parts)), key=lambda i: (parts[i] > 1, parts[i] - exact[i]))
        parts[i] -= 1
    return parts
