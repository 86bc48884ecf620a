"""What is trained on: the images of a folder in storage, checked, upright, cropped to squares."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from dreambooth_storage import EmptyPrefixError, Storage, StoredObject, printable
from dreambooth_trainer.data.decode import MAX_PIXELS, READABLE, UnreadableImageError, decode
from dreambooth_trainer.process.errors import BadDataError

NOT_IMAGES = (".txt", ".caption", ".json", ".jsonl", ".csv")
"""Ends of names that may lie beside the images."""

LITTER = ("thumbs.db", "desktop.ini")
"""What file managers leave behind, beside hidden files."""

POSITIONS = 8
"""Crops of a non-square image along its longer side, so that the latents of all can be cached."""


@dataclass(frozen=True)
class FolderLimits:
    """What is taken from one folder at most, so that a wrong URI cannot fill the memory."""

    max_pixels: int = MAX_PIXELS
    max_bytes: int = 256 * 1024**2
    max_files: int = 10_000


LIMITS = FolderLimits()


@dataclass(frozen=True)
class SourceImage:
    """An image that can be trained on.

    pixels: upright RGB; reduced at load so that the shorter side is at most the resolution.
    sha256: of the file.
    """

    name: str
    pixels: Image.Image
    sha256: str
    uri: str


@dataclass(frozen=True)
class RejectedImage:
    """A file that is not trained on, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{printable(self.name)}: {self.reason}"


@dataclass(frozen=True)
class ImageSet:
    """A folder's images by name, and what was refused."""

    images: list[SourceImage]
    rejected: list[RejectedImage]

    def report(self, field: str) -> str:
        """One line per refused file under a line with the field; empty when there is none."""
        if not self.rejected:
            return ""
        head = f"{field}: {len(self.rejected)} file(s) are not trained on, {len(self.images)} are:"
        return "\n".join([head, *(f"  {refused}" for refused in self.rejected)])


@dataclass(frozen=True)
class Variant:
    """One way to look at an image: cropped at 0..1 along its longer side, mirrored or not."""

    position: float
    mirror: bool


def variants(crop: Literal["center", "random"], flip: bool) -> list[Variant]:
    """All variants that training draws from with equal odds."""
    positions = [0.5] if crop == "center" else [i / (POSITIONS - 1) for i in range(POSITIONS)]
    mirrors = [False, True] if flip else [False]
    return [Variant(position, mirror) for position in positions for mirror in mirrors]


def load_images(
    storage: Storage,
    uri: str,
    *,
    field: str,
    resolution: int,
    limits: FolderLimits = LIMITS,
    count: int | None = None,
) -> ImageSet:
    """The images right below `uri` by name, the first `count` that can be used.

    Refused, each with its reason: files that do not decode, are animated, over a limit, smaller
    than half the resolution, or the same picture as one before. Captions, metadata and hidden files
    are passed over, and so are sub-folders. Raises `BadDataError` when no image is left.
    """
    found = ImageSet([], [])
    objects = _candidates(storage, uri, field, limits)
    for item in _stream(storage, objects, field, resolution, limits):
        if isinstance(item, RejectedImage):
            found.rejected.append(item)
        else:
            found.images.append(item)
        if len(found.images) == count:
            break
    if not found.images:
        raise BadDataError(
            f"{field}: no image in {uri} can be trained on; put {READABLE} files there"
            + "".join(f"\n  {refused}" for refused in found.rejected)
        )
    return found


def _candidates(storage: Storage, uri: str, field: str, limits: FolderLimits) -> list[StoredObject]:
    try:
        listed = storage.list_nonempty(uri, field=field)
    except EmptyPrefixError as error:
        raise BadDataError(str(error)) from error
    files = [item for item in listed if _may_be_image(item.relative)]
    here = [item for item in files if "/" not in item.relative]
    if files and not here:
        raise BadDataError(
            f"{field}: {uri} holds its {len(files)} files in sub-folders only, as"
            f" {printable(files[0].relative)}; name the folder that holds the images"
        )
    if len(here) > limits.max_files:
        raise BadDataError(
            f"{field}: {uri} holds {len(here)} files, over the limit of {limits.max_files};"
            " name a folder with the images alone"
        )
    return here


def _may_be_image(relative: str) -> bool:
    name = relative.rsplit("/", 1)[-1].lower()
    hidden = not name or name.startswith(".") or name in LITTER
    return not hidden and not name.endswith(NOT_IMAGES)


def _stream(
    storage: Storage,
    objects: Sequence[StoredObject],
    field: str,
    resolution: int,
    limits: FolderLimits,
) -> Iterator[SourceImage | RejectedImage]:
    """Every object in order, decoded one by one while storage reads ahead."""
    seen: dict[str, str] = {}
    names = {item.uri: item.relative for item in objects if item.size <= limits.max_bytes}
    for item in objects:
        if item.uri not in names:
            reason = f"{item.size} bytes are over the limit of {limits.max_bytes}"
            yield RejectedImage(item.relative, reason)
    for uri, data in storage.read_many(list(names), field=field):
        yield _examine(uri, names[uri], data, resolution, limits, seen)


def _examine(
    uri: str, name: str, data: bytes, resolution: int, limits: FolderLimits, seen: dict[str, str]
) -> SourceImage | RejectedImage:
    try:
        pixels = decode(data, smallest=-(-resolution // 2), max_pixels=limits.max_pixels)
    except UnreadableImageError as error:
        return RejectedImage(name, str(error))
    first = seen.setdefault(_fingerprint(pixels), name)
    if first != name:
        return RejectedImage(name, f"the same picture as {first}")
    return SourceImage(name, reduced(pixels, resolution), hashlib.sha256(data).hexdigest(), uri)


def _fingerprint(pixels: Image.Image) -> str:
    digest = hashlib.sha256(f"{pixels.size}".encode())
    digest.update(pixels.tobytes())
    return digest.hexdigest()


def reduced(pixels: Image.Image, resolution: int) -> Image.Image:
    """The image with its shorter side at the resolution, or as it is where it is smaller."""
    shorter = min(pixels.size)
    if shorter <= resolution:
        return pixels
    width, height = (max(resolution, round(side * resolution / shorter)) for side in pixels.size)
    return pixels.resize((width, height), Image.Resampling.LANCZOS)


def crop_to_square(image: Image.Image, resolution: int, *, position: float, mirror: bool) -> Tensor:
    """A square of the image as float32 [3, R, R] in -1..1: the whole shorter side, never squashed.

    position: where the square lies along the longer side, 0 (left or top) to 1 (right or bottom).
    """
    width, height = image.size
    side = min(width, height)
    left, top = round((width - side) * position), round((height - side) * position)
    square = image.crop((left, top, left + side, top + side))
    if side != resolution:
        square = square.resize((resolution, resolution), Image.Resampling.LANCZOS)
    if mirror:
        square = ImageOps.mirror(square)
    pixels = torch.from_numpy(np.array(square, dtype=np.float32))
    return pixels.permute(2, 0, 1).div(127.5).sub(1).contiguous()
