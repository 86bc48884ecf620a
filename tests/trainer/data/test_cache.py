"""The cache of latents: one row per variant of an image, one encoding per distinct crop."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dreambooth_trainer.data.cache import ImageGroup, build_cache
from dreambooth_trainer.data.crops import crop_to_square, variants
from dreambooth_trainer.data.images import SourceImage
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.topology import Topology

SIDE = 16


class PixelFamily:
    """A family whose latents are the pixels; counts what it encodes."""

    encoded = 0

    def encode_images(self, pixels: Tensor) -> Tensor:
        self.encoded += len(pixels)
        return pixels

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        return torch.zeros(len(captions), 1)


def group(*sizes: tuple[int, int]) -> ImageGroup:
    random = np.random.default_rng(0)
    images = [
        SourceImage(f"{number}.png", Image.fromarray(pixels), "", "")
        for number, (width, height) in enumerate(sizes)
        for pixels in [random.integers(0, 255, (height, width, 3), dtype=np.uint8)]
    ]
    return ImageGroup(images, ["sks"] * len(images), variants("random", flip=True))


@pytest.mark.parametrize(
    ("groups", "encoded"),
    [
        pytest.param([group((16, 16), (16, 16)), group((16, 16))], 3 * 2, id="square"),
        pytest.param([group((18, 16))], 3 * 2, id="two pixels wider: three places"),
        pytest.param([group((64, 16), (16, 64))], 2 * 16, id="every place differs"),
    ],
)
def test_each_distinct_crop_is_encoded_once(groups: list[ImageGroup], encoded: int) -> None:
    family: Any = PixelFamily()
    cache = build_cache(
        family, groups, SIDE,
        text_is_trained=True, ranks=Ranks(Topology()), device=torch.device("cpu"),
    )  # fmt: skip
    assert family.encoded == encoded
    expected = [
        crop_to_square(image.pixels, SIDE, variant)
        for group in groups
        for image in group.images
        for variant in group.variants
    ]
    assert cache.moments.equal(torch.stack(expected))
