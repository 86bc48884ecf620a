"""Masks of a subject's images: where the subject is, and so what the loss counts.

A mask is the image's own alpha channel, or a file beside it in which the subject is white, under
one of the names that other trainers use: `0-masklabel.png` (OneTrainer) for `0.jpg`, and others.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np
import torch
from PIL import Image, ImageChops, ImageOps
from torch import Tensor

from dreambooth_api.models.subject import Subject
from dreambooth_storage import Storage, StorageError, printable
from dreambooth_trainer.data.crops import CropKind, Size, Variant, crop_box, variants
from dreambooth_trainer.data.decode import UnreadableImageError, decode, decode_alpha
from dreambooth_trainer.data.images import MaskSource, SourceImage, may_be_image
from dreambooth_trainer.data.latents import ImageGroup
from dreambooth_trainer.process import heartbeat
from dreambooth_trainer.process.errors import BadDataError

ENDS = ("-masklabel", ".mask", "-mask", "_mask")
"""Ends of a mask file's name before its suffix, which may differ from the image's."""
EXAMPLE = "-masklabel.png"
DEFAULT_WEIGHT = 0.1
"""Of the loss outside of masks: that of OneTrainer, as nothing else keeps the rest in place."""
SMALLEST_MEAN = 0.01
"""Of a crop's weights: a smaller one is not brought to 1, so that no few cells get all the loss."""
PROPORTIONS = 0.02
"""Relative difference of width / height by which a mask may differ from its image."""
FAINTEST = 128
"""Level that the brightest part of a mask has at least."""


def list_masks(storage: Storage, subject: Subject, index: int) -> dict[str, str]:
    """URIs of the mask files of `spec.subjects[index]`, by name; none unless `mask` is `file`.

    Raises:
        StorageError: The folder cannot be read.
    """
    if subject.mask != "file":
        return {}
    listed = storage.list(subject.images, field=f"spec.subjects[{index}].images")
    # Not the captions and caches that other programs write beside masks too.
    here = (item for item in listed if "/" not in item.relative and may_be_image(item.relative))
    files = {item.relative: item.uri for item in here}
    return {name: files[name] for name in _names_of_masks(files)}


def _names_of_masks(names: Iterable[str]) -> list[str]:
    """The files that are masks of others; a picture of a mask, such as my_mask.jpg, is none."""
    names = list(names)
    others = {_stem(name) for name in names} | {name.lower() for name in names}
    return [
        name
        for name in names
        if any(_stem(name).endswith(end) and _stem(name)[: -len(end)] in others for end in ENDS)
    ]


def _stem(name: str) -> str:
    return PurePosixPath(name).stem.lower()


def add_masks(
    storage: Storage,
    subject: Subject,
    images: Sequence[SourceImage],
    index: int,
    files: Mapping[str, str],
    crop: CropKind,
) -> tuple[list[SourceImage], list[str]]:
    """The images of `spec.subjects[index]` with their masks, and warnings.

    `files` are those of `list_masks`, `crop` is that of the job.

    Raises:
        BadDataError: No image has a mask, or masks cannot be used; all of them are listed.
        StorageError: They cannot be read.
    """
    field = f"spec.subjects[{index}].mask"
    if subject.mask is None:
        unused = _names_of_masks(image.name for image in images)
        warning = (
            f"{field}: {', '.join(map(printable, unused))} looks like the mask of another image,"
            " and is trained on as an image of its own; set mask to file"
        )
        return list(images), [warning] if unused else []
    uris = _mask_uris(subject, images, files)
    problems, masked, unseen = [], {}, []
    contents = storage.read_many(list(uris.values()), field=field)
    for image in (each for each in images if each.name in uris):
        heartbeat.send()
        uri, data = next(contents)
        source = MaskSource(uri, hashlib.sha256(data).hexdigest())
        if problem := _problem(data, replace(image, mask=source)):
            problems.append(f"{printable(uri.rpartition('/')[2])} {problem}")
        elif (mask := _read(data, replace(image, mask=source))) is not None:
            masked[image.name] = source
            if not any(_shows(mask, image.size, each) for each in variants(crop, flip=False)):
                unseen.append(image.name)
    if problems:
        head = f"{field}: {len(problems)} mask(s) in {subject.images} must be corrected:"
        raise BadDataError("\n  ".join([head, *problems]))
    if not masked:
        missing = (
            "no image there has transparent parts; save them as PNG or WebP with some"
            if subject.mask == "alpha"
            else f"no mask is beside the images there; name that of 0.jpg 0{EXAMPLE}"
        )
        raise BadDataError(f"{field}: {subject.mask} is set for {subject.images}, but {missing}")
    warnings = []
    if without := [image.name for image in images if image.name not in masked]:
        names = ", ".join(map(printable, without))
        warnings.append(f"{field}: {names} has no mask, so all of it is trained on")
    if unseen and crop != "none":
        warnings.append(
            f"{field}: the subject of {', '.join(map(printable, unseen))} is outside of the square"
            f" that is trained on (crop: {crop}); set spec.training.crop to none, or cut it out"
        )
    return [replace(image, mask=masked.get(image.name)) for image in images], warnings


def _mask_uris(
    subject: Subject, images: Iterable[SourceImage], files: Mapping[str, str]
) -> dict[str, str]:
    """URI of the file that holds each image's mask, by the image's name."""
    if subject.mask == "alpha":
        return {image.name: image.uri for image in images}
    masks = {_stem(name): uri for name, uri in files.items()}
    found = {}
    for image in images:
        names = (image.name.lower(), _stem(image.name))
        candidates = (f"{name}{end}" for end in ENDS for name in names)
        if uri := next((masks[each] for each in candidates if each in masks), None):
            found[image.name] = uri
    return found


def _problem(data: bytes, image: SourceImage) -> str | None:
    """Why a mask cannot be used."""
    try:
        mask = _read(data, image)
    except UnreadableImageError as error:
        return f"cannot be read: {error}"
    if mask is None:
        return None
    ratio = mask.width / mask.height / (image.size[0] / image.size[1])
    # Proportions, not sizes: programs that make masks often work on smaller images.
    if abs(ratio - 1) > PROPORTIONS:
        return (
            f"is {mask.width} x {mask.height} pixels, which are other proportions than those of"
            f" {printable(image.name)}: save it in the size of the upright image"
        )
    _, brightest = mask.getextrema()
    if int(brightest) < FAINTEST:  # type: ignore[arg-type]
        return "marks nothing: the subject must be white (or opaque), and all else black"
    return None


def _shows(mask: Image.Image, size: Size, variant: Variant) -> bool:
    """Whether a square crop of an image of this size shows the subject."""
    scale = mask.width / size[0], mask.height / size[1]
    left, top, right, bottom = crop_box(size, (1, 1), variant)
    box = left * scale[0], top * scale[1], right * scale[0], bottom * scale[1]
    _, brightest = mask.resize((8, 8), Image.Resampling.BOX, box=box).getextrema()
    return int(brightest) > 0  # type: ignore[arg-type]


def _read(data: bytes, image: SourceImage) -> Image.Image | None:
    """The mask in a file, 8 bits; None for an image without transparent parts."""
    assert image.mask is not None
    alpha = decode_alpha(data)
    if image.mask.uri == image.uri:
        return alpha
    mask = decode(data).convert("L")
    # Transparent parts are decoded as white, and mark nothing.
    return mask if alpha is None else ImageChops.multiply(mask, alpha)


def has_masks(groups: Sequence[ImageGroup]) -> bool:
    """Whether the loss of any image depends on where it is."""
    return any(group.outside is not None for group in groups)


def loss_weights(
    storage: Storage,
    groups: Sequence[ImageGroup],
    resolution: int,
    cells_of: Mapping[Size, Size],
) -> list[Tensor]:
    """The loss's weight at each cell, [variants, 1, h, w] for each image of all groups.

    Weights are 1 where the subject is, `ImageGroup.outside` elsewhere, and then brought to a mean
    of 1, so that the loss of an image does not depend on its mask's area.

    Args:
        storage: Of the masks.
        groups: All groups of the cache.
        resolution: Of crops that are squares.
        cells_of: Width and height of the latents for each shape of crops.

    Raises:
        StorageError: A mask cannot be read, or has changed since it was checked.
    """
    return [
        _weights(image, mask, group, shape, cells_of[shape])
        for group in groups
        for (image, shape), mask in zip(
            group.with_shapes(resolution), _masks(storage, group), strict=True
        )
    ]


def _masks(storage: Storage, group: ImageGroup) -> Iterator[Image.Image | None]:
    """The mask of each image of a group, one after the other."""
    sources = [image.mask if group.outside is not None else None for image in group.images]
    known = {source.uri: source.sha256 for source in sources if source}
    contents = storage.read_many([each.uri for each in sources if each], sha256=known)
    for image, source in zip(group.images, sources, strict=True):
        heartbeat.send()
        if source is None:
            yield None
            continue
        try:
            _, data = next(contents)
        except StorageError as error:
            error.field = image.field
            raise
        yield _read(data, image)


def _weights(
    image: SourceImage, mask: Image.Image | None, group: ImageGroup, shape: Size, cells: Size
) -> Tensor:
    """Weights [variants, 1, h, w] of one image."""
    if mask is None or group.outside is None:
        return torch.ones(len(group.variants), 1, cells[1], cells[0])
    rows = []
    for variant in group.variants:
        covered = _cells(mask, image.size, shape, variant, cells)
        weights = group.outside + (1 - group.outside) * covered
        rows.append(weights / weights.mean().clamp(min=SMALLEST_MEAN))
    return torch.stack(rows).unsqueeze(1)


def _cells(mask: Image.Image, size: Size, shape: Size, variant: Variant, cells: Size) -> Tensor:
    """How much of each cell of a crop the mask covers, [h, w] in 0..1; `size` is the image's."""
    scale = mask.width / size[0], mask.height / size[1]
    left, top, right, bottom = crop_box(size, shape, variant)
    box = left * scale[0], top * scale[1], right * scale[0], bottom * scale[1]
    part = mask.resize(cells, Image.Resampling.BOX, box=box)
    if variant.mirror:
        part = ImageOps.mirror(part)
    return torch.from_numpy(np.array(part, dtype=np.float32)) / 255
