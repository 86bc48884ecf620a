"""Decodes an image file to upright RGB pixels.

Files come from users and are not trusted.
"""

import io
import re
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import numpy as np
from pi_heif import register_heif_opener
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import jpeg_factory

T = TypeVar("T")

register_heif_opener()

FORMATS = ("JPEG", "PNG", "WEBP", "HEIF", "BMP", "TIFF", "GIF", "AVIF")
"""Pillow's names of the formats to read. JPEG includes MPO: a JPEG with a gain map, from phones."""

OF_SEVERAL_PICTURES = ("MPO", "HEIF")
"""Formats of phones, in which the first picture is the photo, and the others belong to it."""

MAX_PIXELS = 64_000_000
"""Largest image in pixels, read from the header: a small file can unpack to gigabytes.

A JPEG may have four times as many, as libjpeg can decode it at half its width and height. A
progressive one may have twice as many: its coefficients are all in memory at once.
"""

MAX_PARTS = 1000
"""Segments and scans of a JPEG. A decoder walks over all pixels for each scan, even an empty one,
so a small file could keep it busy for hours."""

READABLE = "JPEG, PNG, WebP, HEIC, AVIF, BMP, TIFF or GIF"
"""The formats as messages name them."""

_JPEG = b"\xff\xd8"
_MARKER = re.compile(rb"\xff+([^\x00\x01\xd0-\xd7\xff])", re.DOTALL)
_END = b"\xd9"
# 16 bits to 8, rounded; Pillow's own conversion clips at 255.
_TO_8_BITS = ((np.arange(65536, dtype=np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


class UnreadableImageError(ValueError):
    """The file cannot be used as a training image; the message is the reason."""


def decode(data: bytes, *, smallest: int = 1, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The upright RGB image (8 bits per channel, sRGB) in a file.

    Transparent parts become white, and a JPEG over `max_pixels` has half its width and height.
    `smallest` is the least length of the shorter side in the file, in pixels.

    Raises:
        UnreadableImageError: The file is no image, is damaged, too small or over a limit.
    """
    return _decode(data, smallest, max_pixels, _upright_rgb)


def decode_alpha(data: bytes) -> Image.Image | None:
    """The upright alpha channel of the image in a file, 8 bits; None if all of it is opaque.

    Raises:
        UnreadableImageError: As `decode`.
    """
    return _decode(data, 1, MAX_PIXELS, _upright_alpha)


def _decode(data: bytes, smallest: int, max_pixels: int, convert: Callable[[Image.Image], T]) -> T:
    """What `convert` makes of the image in a file, which is not yet decoded."""
    with _quiet():
        try:
            image = _open(data)
            _check_header(image, smallest, max_pixels)
            if image.width * image.height > max_pixels:
                image.draft(None, (image.width // 2, image.height // 2))
            return convert(image)
        except UnreadableImageError:
            raise
        except MemoryError:  # says nothing about the file
            raise
        except Exception as error:  # damaged files make the decoders raise anything
            reason = str(error) or type(error).__name__
            raise UnreadableImageError(f"damaged or truncated ({reason})") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Pillow's warnings of unusual metadata, which users can ignore."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _open(data: bytes) -> Image.Image:
    if not data:
        raise UnreadableImageError("the file is empty")
    # Before Pillow opens it, as its decoder cannot be interrupted.
    if data.startswith(_JPEG) and _has_too_many_parts(data):
        raise UnreadableImageError(f"it has more than {MAX_PARTS} parts; save it again")
    try:
        if data.startswith(_JPEG):
            return _open_jpeg(data)
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise UnreadableImageError(f"not an image, or damaged; {READABLE} is read") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImageError("over the pixel limit; make it smaller") from error


def _open_jpeg(data: bytes) -> Image.Image:
    """As Image.open, without its limit: that is for formats that decode at full size alone."""
    try:
        return jpeg_factory(io.BytesIO(data))
    except (SyntaxError, IndexError, TypeError, struct.error) as error:
        raise UnidentifiedImageError(str(error)) from error


def _has_too_many_parts(jpeg: bytes) -> bool:
    """Walk over the segments and scans of a JPEG, up to its end."""
    place = len(_JPEG)
    for _ in range(MAX_PARTS):
        marker = _MARKER.search(jpeg, place)
        if marker is None or marker[1] == _END:
            return False
        place = marker.end() + int.from_bytes(jpeg[marker.end() : marker.end() + 2])
    return True


def _check_header(image: Image.Image, smallest: int, max_pixels: int) -> None:
    # From the header alone: nothing is decompressed yet.
    width, height = image.size
    if image.format in ("JPEG", "MPO"):
        max_pixels *= 2 if image.info.get("progressive") else 4
    if width * height > max_pixels:
        limit = max_pixels // 1_000_000
        raise UnreadableImageError(
            f"{width} x {height} pixels are over the limit of {limit} megapixels"
        )
    if image.format not in OF_SEVERAL_PICTURES and getattr(image, "is_animated", False):
        raise UnreadableImageError("animated, or of several pages; save the one frame to train on")
    if min(width, height) < smallest:
        raise UnreadableImageError(
            f"{width} x {height} pixels are too small; the shorter side must be at least {smallest}"
        )


def _upright_alpha(image: Image.Image) -> Image.Image | None:
    if not image.has_transparency_data:
        return None
    image.load()
    with suppress(Exception):  # as for the pixels
        ImageOps.exif_transpose(image, in_place=True)
    alpha = image.convert("RGBA").getchannel("A")
    # Many programs write a channel that says nothing.
    return None if alpha.getextrema() == (255, 255) else alpha


def _upright_rgb(image: Image.Image) -> Image.Image:
    image.load()
    profile = image.info.get("icc_profile")
    with suppress(Exception):  # many programs write broken metadata; the pixels are still good
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16"):
        return Image.fromarray(_TO_8_BITS[np.asarray(image)]).convert("RGB")
    # Their range is unknown: 0 to 1, 0 to 65535 or anything else.
    if image.mode in ("I", "F"):
        raise UnreadableImageError("32 bits per channel are not read; save it with 8 or 16")
    if image.has_transparency_data:
        image = _over_white(image)
    return _to_srgb(image, profile)


def _over_white(image: Image.Image) -> Image.Image:
    """The image on a white background."""
    # paste makes one copy less than alpha_composite, which counts for images of 64 megapixels.
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(rgba, mask=rgba)
    return white


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The image in sRGB: phones save Display P3, scanners and print shops CMYK."""
    if profile and image.mode in ("RGB", "CMYK"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            # Most files have this profile; converting to itself would take time and rounding.
            if "sRGB" not in ImageCms.getProfileDescription(source):
                target = ImageCms.createProfile("sRGB")
                converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
                assert converted is not None  # only in-place conversion returns None
                return converted
        except (ImageCms.PyCMSError, OSError):
            pass  # a broken profile, or one of another colour space: convert without it
    return image.convert("RGB")
