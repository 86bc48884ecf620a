"""Square crops of images, as the VAE reads them."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

POSITIONS = 8
"""Random crops of an image lie at this many places, so that the latents of all can be cached."""


@dataclass(frozen=True)
class Variant:
    """One square of an image.

    position: where it lies along the longer side, from 0 (left or top) to 1 (right or bottom).
    mirror: whether it is flipped, left to right.
    """

    position: float
    mirror: bool


def variants(crop: Literal["center", "random"], flip: bool) -> list[Variant]:
    """All variants of an image; training draws from them with equal odds."""
    positions = [0.5] if crop == "center" else [i / (POSITIONS - 1) for i in range(POSITIONS)]
    mirrors = [False, True] if flip else [False]
    return [Variant(position, mirror) for position in positions for mirror in mirrors]


def crop_box(size: tuple[int, int], variant: Variant) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a variant's square; the same for all in a square image."""
    side = min(size)
    left, top = (round((length - side) * variant.position) for length in size)
    return left, top, left + side, top + side


def crop_to_square(image: Image.Image, resolution: int, variant: Variant) -> Tensor:
    """A square as float32 [3, R, R] in -1..1: the whole shorter side, never squashed."""
    square = image.crop(crop_box(image.size, variant))
    if square.width != resolution:
        square = square.resize((resolution, resolution), Image.Resampling.LANCZOS)
    if variant.mirror:
        square = ImageOps.mirror(square)
    pixels = torch.from_numpy(np.array(square, dtype=np.float32))
    return pixels.permute(2, 0, 1).div(127.5).sub(1).contiguous()
