"""Latents of all images of a run: encoded by all ranks together, and kept for later attempts.

Images are read, decoded and encoded one at a time, so neither their number nor their number of
variants adds to the memory that this takes.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import safetensors.torch
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from dreambooth_storage import ObjectNotFoundError, Storage, StorageError, join
from dreambooth_trainer.data.crops import Size, Variant, crop_box, crop_to_shape
from dreambooth_trainer.data.images import SourceImage, read_pixels
from dreambooth_trainer.models import Family
from dreambooth_trainer.process import heartbeat
from dreambooth_trainer.process.distributed import Ranks

FORMAT = 1
"""Part of the key: raised when the same images would be encoded in another way."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageGroup:
    """Images of one subject or class, with a caption for each; all have the same variants.

    Args:
        images: The images.
        captions: Of each image.
        variants: Of all images.
        shapes: Of each image's crops, those of the same shape one after the other; None: all are
            squares of the job's resolution.
        outside: Weight of the loss outside of the images' masks; None: they have no masks.
        orders: Of each image, its caption with its tags in several orders; None: as it is.
        lower_shapes: Those of `shapes` that are of `training.lowerResolutions` alone.
    """

    images: Sequence[SourceImage]
    captions: Sequence[str]
    variants: Sequence[Variant]
    shapes: Sequence[Size] | None = None
    outside: float | None = None
    orders: Sequence[Sequence[str]] | None = None
    lower_shapes: frozenset[Size] = frozenset()

    @property
    def texts(self) -> Sequence[Sequence[str]]:
        """All captions of each image."""
        return self.orders or [[caption] for caption in self.captions]

    def with_shapes(self, resolution: int) -> Iterator[tuple[SourceImage, Size]]:
        """Every image with the shape of its crops."""
        square = resolution, resolution
        yield from zip(self.images, self.shapes or [square] * len(self.images), strict=True)


@dataclass(frozen=True)
class LatentStore:
    """Reads the images of a run, and keeps their latents in `folder` (a URI).

    Latents are named by a hash of all that they depend on. A small file beside them, which is
    written last, holds their sha256.
    """

    storage: Storage
    folder: str

    def load(self, key: str) -> Tensor | None:
        """The moments of this key; None where they cannot be read."""
        try:
            record = json.loads(self.storage.read(join(self.folder, f"{key}.json")))
            data = self.storage.read(self._uri(key), sha256=record["sha256"])
            moments: Tensor = safetensors.torch.load(data)["moments"]
        except ObjectNotFoundError:
            return None
        # Never an error: this rank would end while the others wait for it.
        except (StorageError, ValueError, KeyError, TypeError) as error:
            log.warning("the stored latents cannot be read, and are encoded again: %s", error)
            return None
        return moments

    def save(self, key: str, moments: Tensor) -> None:
        """Store moments; when storage refuses, a warning is logged and training goes on."""
        # Without a check that this attempt still owns the run: whoever has this key has encoded the
        # same images with the same model, up to rounding. Of two attempts that write at once, the
        # record of one may end up beside the latents of the other: their sha256 tells, and the next
        # attempt encodes again.
        data = safetensors.torch.save({"moments": moments})
        record = {"sha256": hashlib.sha256(data).hexdigest(), "shape": list(moments.shape)}
        try:
            self.storage.write(self._uri(key), data)
            self.storage.write(join(self.folder, f"{key}.json"), json.dumps(record).encode())
        except StorageError as error:
            log.warning("latents are not kept for later attempts: %s", error)

    def _uri(self, key: str) -> str:
        return join(self.folder, f"{key}.safetensors")


def load_latents(
    family: Family,
    groups: Sequence[ImageGroup],
    resolution: int,
    store: LatentStore,
    ranks: Ranks,
    device: torch.device,
) -> Tensor:
    """Moments of every variant of every image, in host memory, see `TrainingCache`. Collective.

    They are those that an earlier attempt has stored; otherwise they are encoded.

    Raises:
        StorageError: An image cannot be read, or has changed since it was checked.
    """
    key = _key(family.model_hash, groups, resolution)
    stored = store.load(key)
    # Also agreed on: a rank that encodes alone would wait for the others in a collective.
    if all(ranks.gather(stored is not None)):
        assert stored is not None
        return stored
    moments = _encode_all(family, groups, resolution, store.storage, ranks, device)
    if ranks.topology.rank == 0:
        store.save(key, moments)
    return moments


def _key(model_hash: str, groups: Sequence[ImageGroup], resolution: int) -> str:
    """Hash of everything that the latents depend on: 32 hexadecimal digits."""
    images = [
        [image.sha256, [_crop(image, shape, variant) for variant in group.variants]]
        + ([] if shape == (resolution, resolution) else [shape])
        for group in groups
        for image, shape in group.with_shapes(resolution)
    ]
    text = json.dumps([FORMAT, model_hash, resolution, images])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _crop(
    image: SourceImage, shape: Size, variant: Variant
) -> tuple[tuple[int, int, int, int], bool]:
    """What distinguishes the variants of one image: those with the same crop show the same."""
    return crop_box(image.size, shape, variant), variant.mirror


def _encode_all(
    family: Family,
    groups: Sequence[ImageGroup],
    resolution: int,
    storage: Storage,
    ranks: Ranks,
    device: torch.device,
) -> Tensor:
    """Moments of every row; rows that show the same pixels are encoded once."""
    # By number, as one image may be in several groups. Each rank has every n-th image.
    images = [
        (image, shape, group.variants)
        for group in groups
        for image, shape in group.with_shapes(resolution)
    ]
    distinct = [
        {_crop(image, shape, each): each for each in variants} for image, shape, variants in images
    ]
    own = range(ranks.topology.rank, len(images), ranks.topology.world_size)

    def encode_own() -> dict[int, Tensor]:
        pixels = read_pixels(storage, [images[number][0] for number in own])
        return {
            number: _encode(
                family, image, list(distinct[number].values()), images[number][1], device
            )
            for number, image in zip(own, pixels, strict=True)
        }

    encoded = {n: part for parts in ranks.run_on_all(encode_own) for n, part in parts.items()}
    rows = []
    for number, (image, shape, variants) in enumerate(images):
        places = {crop: place for place, crop in enumerate(distinct[number])}
        rows.append(encoded[number][[places[_crop(image, shape, each)] for each in variants]])
    return join_shapes(rows)


def join_shapes(rows: Sequence[Tensor]) -> Tensor:
    """Rows one after the other; of several shapes, flattened and padded to the largest."""
    if len({each.shape[1:] for each in rows}) == 1:
        return torch.cat(list(rows))
    flat = [each.flatten(2) for each in rows]
    cells = max(each.shape[2] for each in flat)
    return torch.cat([pad(each, (0, cells - each.shape[2])) for each in flat])


def _encode(
    family: Family,
    image: Image.Image,
    variants: Sequence[Variant],
    shape: Size,
    device: torch.device,
) -> Tensor:
    """Moments [variants, 2C, h, w] of one image."""
    moments = []
    for variant in variants:
        heartbeat.send()
        pixels = crop_to_shape(image, shape, variant)
        # One at a time: the VAE's activations of one crop fill a GPU as it is. On the host, as
        # `gather` pickles: a tensor on a GPU would be unpickled on the sender's device.
        moments.append(family.encode_images(pixels[None].to(device)).cpu())
    return torch.cat(moments)
