"""Runs one of diffusers' scripts, with a stand-in for torchvision where there is none for CPUs.

The scripts resize, crop, flip and normalize the training images with it, when they start. The
stand-in does the same with Pillow and torch, and takes no part in a step. The libraries are asked
first whether torchvision is there, as they would import more of it.

    python run_script.py SCRIPT ARGUMENT...
"""

import random
import runpy
import sys
from collections.abc import Callable, Sequence
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor


class InterpolationMode(Enum):
    """Pillow's filters."""

    NEAREST = Image.Resampling.NEAREST
    BILINEAR = Image.Resampling.BILINEAR
    BICUBIC = Image.Resampling.BICUBIC
    LANCZOS = Image.Resampling.LANCZOS


def resize(
    image: Image.Image,
    size: int | Sequence[int],
    interpolation: InterpolationMode = InterpolationMode.BILINEAR,
) -> Image.Image:
    """To a height and width, or to a length of the shorter side, in pixels."""
    if isinstance(size, int):
        scale = size / min(image.size)
        width, height = (max(size, round(scale * side)) for side in image.size)
    else:
        height, width = size
    return image.resize((width, height), interpolation.value)


def crop(image: Image.Image, top: int, left: int, height: int, width: int) -> Image.Image:
    """A rectangle of the image, in pixels."""
    return image.crop((left, top, left + width, top + height))


def center_crop(image: Image.Image, size: int | Sequence[int]) -> Image.Image:
    """The middle of the image."""
    height, width = _both(size)
    return crop(image, (image.height - height) // 2, (image.width - width) // 2, height, width)


def to_tensor(image: Image.Image) -> Tensor:
    """[3, height, width] in 0..1."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def normalize(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(image - mean) / std."""
    return (image - mean[0]) / std[0]


class RandomCrop:
    """A crop at a random place."""

    def __init__(self, size: int | Sequence[int]) -> None:
        self._size = size

    @staticmethod
    def get_params(
        image: Image.Image, output_size: int | Sequence[int]
    ) -> tuple[int, int, int, int]:
        """Top, left, height and width of a random crop."""
        height, width = _both(output_size)
        top = random.randint(0, image.height - height)
        return top, random.randint(0, image.width - width), height, width

    def __call__(self, image: Image.Image) -> Image.Image:
        return crop(image, *self.get_params(image, self._size))


def _both(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _compose(steps: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def apply(image: Any) -> Any:
        for step in steps:
            image = step(image)
        return image

    return apply


def install_torchvision() -> None:
    """Make `torchvision.transforms` of the above, without its metadata."""
    functional = ModuleType("torchvision.transforms.functional")
    vars(functional).update(
        resize=resize, crop=crop, center_crop=center_crop, hflip=ImageOps.mirror,
        to_tensor=to_tensor, normalize=normalize,
    )  # fmt: skip
    transforms = ModuleType("torchvision.transforms")
    vars(transforms).update(
        functional=functional,
        InterpolationMode=InterpolationMode,
        RandomCrop=RandomCrop,
        Compose=_compose,
        Resize=lambda size, interpolation: lambda image: resize(image, size, interpolation),
        CenterCrop=lambda size: lambda image: center_crop(image, size),
        RandomHorizontalFlip=lambda p: (
            lambda image: ImageOps.mirror(image) if random.random() < p else image
        ),
        ToTensor=lambda: to_tensor,
        Normalize=lambda mean, std: lambda image: normalize(image, mean, std),
    )
    torchvision = ModuleType("torchvision")
    vars(torchvision).update(transforms=transforms)
    for module in (torchvision, transforms, functional):
        sys.modules[module.__name__] = module


def main(script: str, *arguments: str) -> None:
    """Run the script as Python would."""
    if "torchvision" in Path(script).read_text() and find_spec("torchvision") is None:
        import diffusers  # noqa: F401 - looks for torchvision when it is imported
        from transformers.utils import is_torchvision_available

        assert not is_torchvision_available()  # it remembers the answer
        install_torchvision()
    sys.argv = [script, *arguments]
    sys.path[0] = str(Path(script).parent)
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
