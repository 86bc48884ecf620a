"""PNG files that this project writes and reads back: class images and samples."""

import io

from PIL import Image


def encode_png(image: Image.Image) -> bytes:
    """The bytes of the image as a PNG file; lossless."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def decode_png(data: bytes) -> Image.Image:
    """The image in the bytes of a file that `encode_png` wrote.

    Users' files need the checks of `decode.decode`.
    """
    image = Image.open(io.BytesIO(data))
    image.load()
    return image
