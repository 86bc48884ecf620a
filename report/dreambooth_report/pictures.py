"""The pictures of a page: read in parallel, scaled down, and bounded together."""

import base64
import io
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import PIL.WebPImagePlugin  # noqa: F401 - else Pillow imports all of its 45 formats to find it
from pi_heif import register_heif_opener
from PIL import Image, ImageOps

from dreambooth_storage import ObjectNotFoundError, StorageError

register_heif_opener()

BUDGET = 17_000_000
"""Characters of all data URIs of a page, which stays under 20 MB with everything else."""
MAX_BYTES = 64 * 1024**2
MAX_PIXELS = 100_000_000
"""Larger files and pictures are left out: a folder may hold anything."""
READERS = 8
LOSSLESS_SIDE = 128
"""Pixels up to which a picture is kept exactly: it is enlarged on the page."""
SMALLER = 0.7
SMALLEST_SIDE = 48


@dataclass(frozen=True)
class Picture:
    """A picture as the page embeds it; its size is in pixels."""

    data_uri: str
    width: int
    height: int


Request = tuple[str, int]
"""URI of an image file, and the longest side in pixels that is wanted."""


ReadStart = Callable[[str, int], bytes]
"""Reads a URI, and of a longer file the first bytes alone; raises `StorageError`."""


def load(requests: set[Request], read: ReadStart) -> dict[Request, Picture]:
    """The pictures that can be read, small enough to fit into `BUDGET` together.

    Args:
        requests: What the page shows.
        read: Such as `Storage.read_start`.
    """
    sides: dict[str, set[int]] = {}
    for uri, side in requests:
        sides.setdefault(uri, set()).add(side)
    unreadable: set[str] = set()

    def load_one(uri: str) -> dict[Request, Picture]:
        # A server that does not answer costs a time-out: it is not asked for each picture.
        folder = uri.rpartition("/")[0]
        if folder in unreadable:
            return {}
        try:
            data = read(uri, MAX_BYTES + 1)
        except ObjectNotFoundError:
            return {}
        except StorageError:
            unreadable.add(folder)
            return {}
        shrunk = {(uri, side): shrink(data, side) for side in sides[uri]}
        return {request: picture for request, picture in shrunk.items() if picture}

    with ThreadPoolExecutor(READERS) as pool:
        pictures = {
            key: each for part in pool.map(load_one, sorted(sides)) for key, each in part.items()
        }
    return fit(pictures, BUDGET)


def fit(pictures: Mapping[Request, Picture], budget: int) -> dict[Request, Picture]:
    """The pictures, all made smaller until their data URIs have `budget` characters at most."""
    pictures = dict(pictures)
    while sum(len(each.data_uri) for each in pictures.values()) > budget:
        largest = max(max(each.width, each.height) for each in pictures.values())
        if largest <= SMALLEST_SIDE:
            return {}
        side = round(largest * SMALLER)
        pictures = {key: _smaller(each, side) for key, each in pictures.items()}
    return pictures


def shrink(data: bytes, side: int) -> Picture | None:
    """The picture in an image file with `side` pixels at most; None for what is not one.

    Upright and without metadata, such as the place where a photo was taken.
    """
    if len(data) > MAX_BYTES:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # Pillow warns of odd files, which are shown if they can be
            image: Image.Image = Image.open(io.BytesIO(data))
            if image.width * image.height > MAX_PIXELS:
                return None
            image.draft("RGB", (side, side))
            profile = image.info.get("icc_profile") if image.mode == "RGB" else None
            image = ImageOps.exif_transpose(image).convert("RGB")
            image.thumbnail((side, side), Image.Resampling.LANCZOS)
    # Decoders of damaged files raise nearly anything.
    except Exception:
        return None
    return _encode(image, profile)


def _encode(image: Image.Image, profile: bytes | None = None) -> Picture:
    buffer = io.BytesIO()
    lossless = max(image.size) <= LOSSLESS_SIDE
    image.save(buffer, "WEBP", quality=84, lossless=lossless, icc_profile=profile or b"")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return Picture(f"data:image/webp;base64,{encoded}", *image.size)


def _smaller(picture: Picture, side: int) -> Picture:
    if max(picture.width, picture.height) <= side:
        return picture
    image: Image.Image = Image.open(
        io.BytesIO(base64.b64decode(picture.data_uri.partition(",")[2]))
    )
    profile = image.info.get("icc_profile")
    image = image.convert("RGB")
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _encode(image, profile)
