"""Images as an encoder takes them: its published preprocessing, with Pillow alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import torch
from PIL import Image
from torch import Tensor

LARGEST = 4096
"""Pixels of a side, so that a wrong file cannot fill the memory."""


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an RGB image before it is encoded.

    Args:
        size: Height and width to resize to; None: `shortest_edge` counts.
        shortest_edge: Pixels of the shorter side after resizing, which keeps proportions; None,
            together with `size`: images are not resized.
        crop: Height and width of the centre that is kept; None: all of it.
        resample: Pillow's filter.
        mean: Of each channel, subtracted from values between 0 and 1.
        std: Of each channel, which they are then divided by.
    """

    size: tuple[int, int] | None
    shortest_edge: int | None
    crop: tuple[int, int] | None
    resample: Image.Resampling
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of what the model gets.

        Raises:
            ValueError: It depends on the image.
        """
        shape = self.crop or self.size
        if shape is None:
            raise ValueError("images would keep different sizes; it needs size or crop_size")
        return shape

    def apply(self, images: Sequence[Image.Image]) -> Tensor:
        """The images as fp32 pixels [N, 3, height, width]."""
        return torch.stack([self._apply(image.convert("RGB")) for image in images])

    def _apply(self, image: Image.Image) -> Tensor:
        if self.size:
            image = image.resize(self.size[::-1], self.resample)
        elif self.shortest_edge:
            scale = self.shortest_edge / min(image.size)
            width, height = (max(self.shortest_edge, int(side * scale)) for side in image.size)
            image = image.resize((width, height), self.resample)
        if self.crop:
            height, width = self.crop
            left, top = (image.width - width) // 2, (image.height - height) // 2
            image = image.crop((left, top, left + width, top + height))
        pixels = np.asarray(image, dtype=np.float32) / 255
        normal = (torch.from_numpy(pixels) - torch.tensor(self.mean)) / torch.tensor(self.std)
        return normal.permute(2, 0, 1)


def read_preprocessing(config: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing in processor_config.json or preprocessor_config.json of transformers.

    Raises:
        ValueError: It is none that can be carried out; the message says why.
    """
    # Transformers 5 writes one file for image processor and tokenizer.
    config = config.get("image_processor", config)
    size, shortest = None, None
    if config.get("do_resize", True):
        given = config.get("size")
        shortest = given.get("shortest_edge") if isinstance(given, dict) else None
        # Files of early transformers have a plain number: the shorter side where a crop follows.
        if isinstance(given, int) and config.get("do_center_crop"):
            shortest = given
        if shortest is None:
            size = _read_shape(given, "size")
        elif not _is_side(shortest):
            raise ValueError(f"its size is {given!r}")
    crop = (
        _read_shape(config.get("crop_size"), "crop_size") if config.get("do_center_crop") else None
    )
    found = Preprocessing(
        size=size,
        shortest_edge=shortest,
        crop=crop,
        resample=_read_filter(config.get("resample", Image.Resampling.BILINEAR)),
        mean=_read_channels(config, "image_mean", 0.0),
        std=_read_channels(config, "image_std", 1.0),
    )
    if not all(found.std):
        raise ValueError("its image_std is 0")
    _ = found.shape
    return found


def _is_side(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 < value <= LARGEST


def _read_shape(value: Any, name: str) -> tuple[int, int]:
    if isinstance(value, int):
        value = {"height": value, "width": value}
    if isinstance(value, dict):
        height, width = value.get("height"), value.get("width")
        if _is_side(height) and _is_side(width):
            return height, width
    raise ValueError(f"its {name} is {value!r}")


def _read_filter(value: Any) -> Image.Resampling:
    try:
        return Image.Resampling(value)
    except ValueError as error:
        raise ValueError(f"its resample is {value!r}") from error


def _read_channels(config: Mapping[str, Any], name: str, default: float) -> tuple[float, ...]:
    if not config.get("do_normalize", True):
        return (default,) * 3
    values = config.get(name)
    channels = values if isinstance(values, list) else []
    if len(channels) != 3 or not all(isinstance(each, int | float) for each in channels):
        raise ValueError(f"its {name} is {values!r}")
    return tuple(map(float, channels))
