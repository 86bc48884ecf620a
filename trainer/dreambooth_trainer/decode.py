"""From an image file's bytes to upright RGB pixels.

Files come from users: nothing about them is trusted.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
"""Pillow's names of what is read. JPEG includes MPO: a JPEG with a gain map, as phones write it."""

MAX_PIXELS = 64_000_000
"""Largest image in pixels, read from the header: a small file can unpack to gigabytes."""

READABLE = "JPEG, PNG, WebP, BMP, TIFF, GIF or AVIF"


class Unreadable(ValueError):
    """The file cannot be trained on; the message is the reason."""


def decode(data: bytes, *, smallest: int = 1, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The upright RGB image (8 bits per channel, sRGB) in a file.

    Transparency is laid over white. `smallest` is the least length of the shorter side in pixels.
    Raises `Unreadable`.
    """
    with _quiet():
        try:
            image = _open(data)
            _check_header(image, smallest, max_pixels)
            return _upright_rgb(image)
        except Unreadable:
            raise
        except MemoryError:
            raise
        except Exception as error:  # decoders meet hostile bytes with every kind of exception
            reason = str(error) or type(error).__name__
            raise Unreadable(f"damaged or truncated ({reason})") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Pillow warns of odd metadata, which is no concern of the user's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _open(data: bytes) -> Image.Image:
    if not data:
        raise Unreadable("the file is empty")
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"mif1", b"hevc"):
            raise Unreadable("HEIC is not read; convert it to JPEG or PNG") from error
        raise Unreadable(f"not an image, or damaged; {READABLE} is read") from error
    except Image.DecompressionBombError as error:
        raise Unreadable("over the pixel limit; make it smaller") from error


def _check_header(image: Image.Image, smallest: int, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        limit = max_pixels // 1_000_000
        raise Unreadable(f"{width} x {height} pixels are over the limit of {limit} megapixels")
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise Unreadable("animated, or of several pages; save the one frame to train on")
    if min(width, height) < smallest:
        raise Unreadable(
            f"{width} x {height} pixels are too small; the shorter side must be at least {smallest}"
        )


def _upright_rgb(image: Image.Image) -> Image.Image:
    image.load()
    profile = image.info.get("icc_profile")
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):
        return _from_16_bit(upright)
    if upright.mode in ("I", "F"):
        raise Unreadable("32 bits per channel are not read; save it with 8 or 16")
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        upright = Image.alpha_composite(white, rgba).convert("RGB")
    return _to_srgb(upright, profile)


def _from_16_bit(image: Image.Image) -> Image.Image:
    """Scaled to 8 bits; Pillow's own conversion clips at 255."""
    wide = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Phones save Display P3, printers CMYK: without their profile, colours come out wrong."""
    if profile and image.mode in ("RGB", "CMYK"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if "sRGB" not in ImageCms.getProfileDescription(source):
                target = ImageCms.createProfile("sRGB")
                converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
                assert converted is not None  # only in-place conversion returns None
                return converted
        except (ImageCms.PyCMSError, OSError):
            pass  # a broken profile, or one of another colour space: convert without it
    return image.convert("RGB")
