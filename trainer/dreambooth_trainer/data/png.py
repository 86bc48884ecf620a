"""PNG files that this project writes and reads back: class images, samples, generated images."""

import io
from collections.abc import Mapping

from PIL import Image
from PIL.PngImagePlugin import PngInfo


def encode_png(image: Image.Image, text: Mapping[str, str] | None = None) -> bytes:
    """The bytes of the image as a PNG file; lossless.

    Args:
        image: The image.
        text: Texts beside the pixels, by keyword (PNG specification, section 11.3.3.4: iTXt).
    """
    buffer, info = io.BytesIO(), PngInfo()
    for keyword, value in (text or {}).items():
        info.add_itxt(keyword, value)
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def decode_png(data: bytes) -> Image.Image:
    """The image in the bytes of a file that `encode_png` wrote.

    Users' files need the checks of `decode.decode`.
    """
    image = Image.open(io.BytesIO(data))
    image.load()
    return image
