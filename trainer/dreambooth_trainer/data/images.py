"""The images of a folder in storage: checked, and read upright and reduced to the resolution."""

import hashlib
import mimetypes
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from dreambooth_storage import (
    EmptyPrefixError,
    Storage,
    StorageError,
    StoredObject,
    printable,
)
from dreambooth_trainer.data.crops import Size
from dreambooth_trainer.data.decode import MAX_PIXELS, READABLE, UnreadableImageError, decode
from dreambooth_trainer.process.errors import BadDataError

NOT_IMAGES = (".txt", ".caption", ".json", ".jsonl", ".csv", ".aae", ".xmp", ".npz")
"""Suffixes of captions, metadata, photo edits and other trainers' caches in the same folder."""

FILE_MANAGER_FILES = ("thumbs.db", "desktop.ini")
"""Files that Windows writes into folders; those of other systems are hidden."""


@dataclass(frozen=True)
class FolderLimits:
    """Limits in pixels, bytes and files, so that a wrong URI cannot fill the memory."""

    max_pixels: int = MAX_PIXELS
    """Of one image."""
    max_bytes: int = 256 * 1024**2
    """Of one file."""
    max_files: int = 10_000


LIMITS = FolderLimits()


@dataclass(frozen=True)
class MaskSource:
    """The file that holds an image's mask: the image's own, in its alpha channel, or another."""

    uri: str
    sha256: str


@dataclass(frozen=True)
class SourceImage:
    """An image that can be trained on; its pixels stay in storage.

    Args:
        name: Relative to its folder.
        size: As `read_pixels` gives it.
        sha256: Of the file, in hexadecimal.
        uri: Of the file.
        field: The job's field that names the folder.
        mask: Where the subject is; None: everywhere.
    """

    name: str
    size: Size
    sha256: str
    uri: str
    field: str
    mask: MaskSource | None = None


@dataclass(frozen=True)
class RejectedImage:
    """A file that is not trained on, and why."""

    name: str
    reason: str
    is_lost: bool = True
    """Whether a picture is lost: not by a copy of one that is used, nor by a video or archive."""

    def __str__(self) -> str:
        return f"{printable(self.name)}: {self.reason}"


@dataclass(frozen=True)
class ImageSet:
    """The images of a folder, in the order of their names, and the files that were rejected.

    unread: number of files that were not needed, as those before them gave `count` images.
    """

    images: list[SourceImage]
    rejected: list[RejectedImage]
    unread: int = 0

    def report(self, field: str) -> str:
        """One line per rejected file under a line with the field; empty when there is none."""
        if not self.rejected:
            return ""
        head = f"{field}: {len(self.rejected)} file(s) are not trained on, {len(self.images)} are:"
        return "\n".join([head, *(f"  {rejected}" for rejected in self.rejected)])


def load_images(
    storage: Storage,
    uri: str,
    *,
    field: str,
    resolution: int,
    limits: FolderLimits = LIMITS,
    count: int | None = None,
    skip: Collection[str] = (),
) -> ImageSet:
    """The images directly in the folder `uri`, by name: the first `count` that can be used.

    Files whose names are in `skip` are no images to train on.

    Files that do not decode, are animated, exceed a limit, are smaller than half the resolution, or
    are the same picture as an earlier one are rejected with the reason. Captions, metadata, hidden
    files and sub-folders are ignored.

    The files are read one after the other, and their pixels are not kept: see `read_pixels`.

    Raises:
        BadDataError: No image is left, or the folder has too many files.
        StorageError: The folder cannot be read.
    """
    images: list[SourceImage] = []
    rejected: list[RejectedImage] = []
    objects = [
        item for item in _candidates(storage, uri, field, limits) if item.relative not in skip
    ]
    links = _broken_links(storage, uri)
    for item in _stream(storage, objects, field, resolution, limits):
        if isinstance(item, RejectedImage):
            rejected.append(item)
        else:
            images.append(item)
        if len(images) == count:
            break
    if not images:
        raise BadDataError(
            f"{field}: no image in {uri} can be trained on; put {READABLE} files there"
            + "".join(f"\n  {each}" for each in [*links, *rejected])
        )
    unread = len(objects) - len(images) - len(rejected)
    return ImageSet(images, [*links, *rejected], unread)


def read_pixels(storage: Storage, images: Sequence[SourceImage]) -> Iterator[Image.Image]:
    """The images one after the other, upright RGB, each reduced to its `size`.

    Raises:
        StorageError: An image cannot be read, or has changed since it was checked.
    """
    expected = {image.uri: image.sha256 for image in images}
    contents = storage.read_many([image.uri for image in images], sha256=expected)
    for image in images:
        try:
            _, data = next(contents)
        except StorageError as error:
            error.field = image.field
            raise
        pixels = decode(data)
        is_reduced = pixels.size == image.size
        yield pixels if is_reduced else pixels.resize(image.size, Image.Resampling.LANCZOS)


def _broken_links(storage: Storage, uri: str) -> list[RejectedImage]:
    return [
        RejectedImage(name, "a link whose target does not exist", is_lost=_is_named_as_image(name))
        for name in storage.broken_links(uri)
        if "/" not in name and may_be_image(name)
    ]


def _candidates(storage: Storage, uri: str, field: str, limits: FolderLimits) -> list[StoredObject]:
    try:
        listed = storage.list_nonempty(uri, field=field)
    except EmptyPrefixError as error:
        if storage.exists(uri, field=field):
            folder = uri.rpartition("/")[0]
            raise BadDataError(
                f"{field}: {printable(uri)} is one file; name its folder, {printable(folder)}"
            ) from error
        links = map(str, _broken_links(storage, uri))
        raise BadDataError("\n  ".join([str(error), *links])) from error
    files = [item for item in listed if may_be_image(item.relative)]
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


def may_be_image(relative: str) -> bool:
    """Whether a file can be an image by its name."""
    name = relative.rsplit("/", 1)[-1].lower()
    hidden = not name or name.startswith(".") or name in FILE_MANAGER_FILES
    return not hidden and not name.endswith(NOT_IMAGES)


def _stream(
    storage: Storage,
    objects: Sequence[StoredObject],
    field: str,
    resolution: int,
    limits: FolderLimits,
) -> Iterator[SourceImage | RejectedImage]:
    """Every object in order, decoded while storage reads ahead; too large ones are first."""
    seen: dict[str, str] = {}
    names = {item.uri: item.relative for item in objects if item.size <= limits.max_bytes}
    for item in objects:
        if item.uri not in names:
            reason = f"{item.size} bytes are over the limit of {limits.max_bytes}"
            yield RejectedImage(item.relative, reason, is_lost=_is_named_as_image(item.relative))
    for uri, data in storage.read_many(list(names), field=field):
        checked = _check_image(data, names[uri], resolution, limits, seen)
        if isinstance(checked, RejectedImage):
            yield checked
        else:
            sha256 = hashlib.sha256(data).hexdigest()
            yield SourceImage(names[uri], checked, sha256, uri, field)


def _check_image(
    data: bytes, name: str, resolution: int, limits: FolderLimits, seen: dict[str, str]
) -> tuple[int, int] | RejectedImage:
    """The size in pixels of an image that can be trained on, else the reason why it cannot.

    `seen` has the hashes of the pictures so far, with their names.
    """
    try:
        pixels = decode(data, smallest=-(-resolution // 2), max_pixels=limits.max_pixels)
    except UnreadableImageError as error:
        return RejectedImage(name, str(error), is_lost=_is_named_as_image(name))
    # Of pixels, not of files: the same picture may have been saved twice with other metadata.
    first = seen.setdefault(_pixel_hash(pixels), name)
    if first != name:
        return RejectedImage(name, f"the same picture as {first}", is_lost=False)
    return reduced_size(pixels.size, (resolution, resolution))


def _is_named_as_image(name: str) -> bool:
    """Whether a name is that of an image, or of nothing that is known."""
    kind, _ = mimetypes.guess_type(name)
    return kind is None or kind.startswith("image/")


def _pixel_hash(pixels: Image.Image) -> str:
    digest = hashlib.sha256(f"{pixels.size}".encode())
    digest.update(pixels.tobytes())
    return digest.hexdigest()


def reduced_size(size: Size, shape: Size) -> Size:
    """The least size with these proportions that covers the shape; a smaller one is not changed."""
    scale = max(needed / side for needed, side in zip(shape, size, strict=True))
    if scale >= 1:
        return size
    width, height = (
        max(needed, round(side * scale)) for needed, side in zip(shape, size, strict=True)
    )
    return width, height
