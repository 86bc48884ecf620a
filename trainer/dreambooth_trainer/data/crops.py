"""Crops of images for the VAE: squares, or shapes that are those of the images."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

POSITIONS = 8
"""Random crops have this number of positions, so that the latents of all of them can be cached."""

CropKind = Literal["center", "random", "none"]
"""As spec.training.crop."""
Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True)
class Variant:
    """One crop of an image.

    Args:
        position: Along the side that is cropped, from 0 (left or top) to 1 (right or bottom).
        mirror: Whether left and right are exchanged.
    """

    position: float
    mirror: bool


def variants(crop: CropKind, flip: bool) -> list[Variant]:
    """All variants of an image; training draws from them with equal probability.

    Returns:
        1 or `POSITIONS` crops, twice as many with `flip`.
    """
    positions = [i / (POSITIONS - 1) for i in range(POSITIONS)] if crop == "random" else [0.5]
    mirrors = [False, True] if flip else [False]
    return [Variant(position, mirror) for position in positions for mirror in mirrors]


def crop_box(size: Size, shape: Size, variant: Variant) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the largest part of an image that has the shape's proportions.

    It is the same for all variants of an image that has them itself.
    """
    scale = min(length / side for length, side in zip(size, shape, strict=True))
    width, height = (
        min(length, round(side * scale)) for length, side in zip(size, shape, strict=True)
    )
    left, top = (
        round((length - side) * variant.position)
        for length, side in zip(size, (width, height), strict=True)
    )
    return left, top, left + width, top + height


def crop_to_shape(image: Image.Image, shape: Size, variant: Variant) -> Tensor:
    """The part `crop_box` of an image, as float32 [3, H, W] in -1..1; `shape` is W and H."""
    part = image.crop(crop_box(image.size, shape, variant))
    if part.size != shape:
        part = part.resize(shape, Image.Resampling.LANCZOS)
    if variant.mirror:
        part = ImageOps.mirror(part)
    pixels = torch.from_numpy(np.array(part, dtype=np.float32))
    # HWC in 0..255 to CHW in -1..1, the range that the VAE was trained on.
    return pixels.permute(2, 0, 1).div(127.5).sub(1).contiguous()


def crop_to_square(image: Image.Image, resolution: int, variant: Variant) -> Tensor:
    """A square as float32 [3, R, R] in -1..1, with the whole shorter side of the image."""
    return crop_to_shape(image, (resolution, resolution), variant)
