"""Square crops of images for the VAE."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

POSITIONS = 8
"""Random crops have this number of positions, so that the latents of all of them can be cached."""


@dataclass(frozen=True)
class Variant:
    """One square of an image.

    Args:
        position: Along the longer side, from 0 (left or top) to 1 (right or bottom).
        mirror: Whether left and right are exchanged.
    """

    position: float
    mirror: bool


def variants(crop: Literal["center", "random"], flip: bool) -> list[Variant]:
    """All variants of an image; training draws from them with equal probability.

    Returns:
        1 or `POSITIONS` crops, twice as many with `flip`.
    """
    positions = [0.5] if crop == "center" else [i / (POSITIONS - 1) for i in range(POSITIONS)]
    mirrors = [False, True] if flip else [False]
    return [Variant(position, mirror) for position in positions for mirror in mirrors]


def crop_box(size: tuple[int, int], variant: Variant) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a variant's square; the same for all in a square image."""
    side = min(size)
    left, top = (round((length - side) * variant.position) for length in size)
    return left, top, left + side, top + side


def crop_to_square(image: Image.Image, resolution: int, variant: Variant) -> Tensor:
    """A square as float32 [3, R, R] in -1..1, with the whole shorter side of the image.

    Proportions are kept. `resolution` is R, in pixels.
    """
    square = image.crop(crop_box(image.size, variant))
    if square.width != resolution:
        square = square.resize((resolution, resolution), Image.Resampling.LANCZOS)
    if variant.mirror:
        square = ImageOps.mirror(square)
    pixels = torch.from_numpy(np.array(square, dtype=np.float32))
    # HWC in 0..255 to CHW in -1..1, the range that the VAE was trained on.
    return pixels.permute(2, 0, 1).div(127.5).sub(1).contiguous()
