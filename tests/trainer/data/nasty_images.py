"""Broken and nasty image files, made by hand: `corpus()` has each with what must become of it."""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageCms

import tests.trainer.data.heif_encoder  # noqa: F401 (registers an encoder)

DECODED, REFUSED, EITHER = "decoded", "refused", "either"
NO_IMAGE = "not an image, or damaged"
SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Nasty:
    """A file; `fate` is what must become of it, `reason` is part of what is said if refused."""

    name: str
    content: bytes | Callable[[], bytes]
    fate: str = REFUSED
    reason: str = ""

    @property
    def data(self) -> bytes:
        """The file's bytes; those of large files are made when they are asked for."""
        return self.content() if callable(self.content) else self.content


def corpus() -> list[Nasty]:
    """All of them; the largest unpacks to 64 megapixels."""
    makers = (_no_images, _cut, _sizes, _modes, _frames, _metadata, _structures, _bombs)
    return [nasty for make in makers for nasty in make()]


def picture(side: int = 48) -> Image.Image:
    """Noise, so that no part of its file is without meaning."""
    noise = np.random.default_rng(side).integers(0, 255, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of its file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(
    width: int,
    height: int,
    depth: int,
    colour: int,
    pixels: bytes,
    *before: bytes,
    interlace: int = 0,
) -> bytes:
    """A PNG file of raw scanlines; chunks `before` come after its header."""
    header = struct.pack(">2I5B", width, height, depth, colour, 0, 0, interlace)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(pixels, 1)), (b"IEND", b"")]
    first, *rest = [chunk(*part) for part in parts]
    return SIGNATURE + b"".join([first, *before, *rest])


def tiff(entries: dict[int, tuple[int, int, int]], body: bytes = b"", following: int = 0) -> bytes:
    """A little-endian TIFF of one directory; entries are tag: (type, count, value)."""
    fields = b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in sorted(entries.items()))
    directory = struct.pack("<H", len(entries)) + fields + struct.pack("<I", following)
    return b"II*\0" + struct.pack("<I", 8) + directory + body


def _grey_tiff(side: int, **changes: tuple[int, int, int]) -> dict[int, tuple[int, int, int]]:
    start = 8 + 2 + 12 * 8 + 4
    return {
        256: (4, 1, side), 257: (4, 1, side), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1),
        273: (4, 1, start), 278: (4, 1, side), 279: (4, 1, side * side),
        **{int(tag): entry for tag, entry in changes.items()},
    }  # fmt: skip


def _no_images() -> Iterator[Nasty]:
    page = b"<!DOCTYPE html><html><head><title>403 Forbidden</title></head><body>No.</body></html>"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("0.png", encoded(picture(), "PNG"))
    yield Nasty("zero-bytes.jpg", b"", reason="the file is empty")
    yield Nasty("text.png", b"this is a photo of sks mug\n", reason=NO_IMAGE)
    yield Nasty("error-page.jpg", page, reason=NO_IMAGE)
    yield Nasty("error.xml.jpg", b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>")
    yield Nasty("drawing.svg.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", reason=NO_IMAGE)
    yield Nasty("script.eps.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n")
    yield Nasty("document.pdf.jpg", b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\n", reason=NO_IMAGE)
    yield Nasty("photos.zip.jpg", archive.getvalue(), reason=NO_IMAGE)
    yield Nasty("phone.heic", b"\0\0\0\x18ftypheic" + bytes(64), reason=NO_IMAGE)
    yield Nasty("icon.ico.png", encoded(picture(), "ICO"), reason=NO_IMAGE)
    yield Nasty("noise.jpg", random.Random(0).randbytes(5000), reason=NO_IMAGE)
    yield Nasty("zeros.png", bytes(1_000_000), reason=NO_IMAGE)
    yield Nasty("byte-order.tif", b"II*\0", reason="")
    yield Nasty("pickle.png", b"\x80\x04cos\nsystem\n(S'true'\ntR.", reason=NO_IMAGE)
    yield Nasty("png-named.jpg", encoded(picture(), "PNG"), DECODED)
    yield Nasty("jpeg-named.webp", encoded(picture(), "JPEG"), DECODED)


def _cut() -> Iterator[Nasty]:
    """Each format, cut at each of its structures, and once more in the middle of its pixels."""
    for name, data, places in [
        ("jpg", encoded(picture(), "JPEG", quality=95), _jpeg_segments),
        ("png", encoded(picture(), "PNG"), _png_chunks),
        ("webp", encoded(picture(), "WEBP"), lambda _: [4, 11, 12, 16, 20, 29]),
        ("tif", encoded(picture(), "TIFF"), lambda _: [2, 5, 8, 9, 30]),
        ("gif", encoded(picture(), "GIF"), lambda _: [5, 6, 12, 300]),
        ("bmp", encoded(picture(), "BMP"), lambda _: [1, 13, 20, 53]),
        ("avif", encoded(picture(), "AVIF"), lambda _: [8, 30, 100]),
        ("heic", encoded(picture(), "HEIF"), lambda _: [8, 30, 100, 500]),
    ]:
        for place in places(data):
            yield Nasty(f"cut-{place}.{name}", data[:place])
        yield Nasty(f"half.{name}", data[: len(data) // 2])


def _jpeg_segments(data: bytes) -> list[int]:
    places, place = [2], 2
    while data[place + 1] != 0xDA:
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
        places += [place, place + 3]
    return [*places, place + 10, place + 20]


def _png_chunks(data: bytes) -> list[int]:
    places, place = [7, 8], 8
    while data[place + 4 : place + 8] != b"IEND":
        length = int.from_bytes(data[place : place + 4])
        places += [place + 6, place + 8 + length // 2]
        place += 12 + length
    return places


def _sizes() -> Iterator[Nasty]:
    def of(width: int, height: int) -> bytes:
        return encoded(Image.new("RGB", (width, height), "red"), "PNG")

    for width, height in [(1, 1), (30_000, 1), (1, 30_000), (30_000, 40)]:
        yield Nasty(f"{width}x{height}.png", of(width, height), reason="are too small")
    yield Nasty("0x0.png", png(0, 0, 8, 2, b""))
    yield Nasty("0x9.gif", b"GIF89a\0\0\x09\0\0\0\0,\0\0\0\0\0\0\x09\0\0\x02\0\0;")
    yield Nasty("8001x8001.png", png(8001, 8001, 8, 2, b""), reason="limit of 64 megapixels")
    yield Nasty("2147483647x1.png", png(2**31 - 1, 1, 8, 2, b""), reason="pixel")
    yield Nasty("2147483647x2147483647.png", png(2**31 - 1, 2**31 - 1, 8, 6, b""), reason="pixel")
    huge = bytearray(encoded(picture(), "JPEG"))
    frame = huge.index(b"\xff\xc0")
    huge[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    yield Nasty("65535x65535.jpg", bytes(huge), reason="limit of 256 megapixels")
    tall = bytearray(encoded(picture(), "BMP"))
    tall[18:26] = struct.pack("<2i", 2**31 - 1, -(2**31))
    yield Nasty("negative.bmp", bytes(tall))


def _modes() -> Iterator[Nasty]:
    side, image = 48, picture()
    cmyk = image.convert("CMYK")
    yield Nasty("cmyk.jpg", encoded(cmyk, "JPEG"), DECODED)
    yield Nasty("cmyk.tif", encoded(cmyk, "TIFF"), DECODED)
    yield Nasty("lab.tif", encoded(Image.new("LAB", (side, side)), "TIFF"), EITHER)
    yield Nasty("grey.jpg", encoded(image.convert("L"), "JPEG"), DECODED)
    yield Nasty("progressive.jpg", encoded(image, "JPEG", progressive=True), DECODED)
    for colour, channels in {0: 1, 2: 3, 4: 2, 6: 4}.items():
        rows = (b"\0" + b"\x12\x34" * channels * side) * side
        yield Nasty(f"16-bit-{colour}.png", png(side, side, 16, colour, rows), DECODED)
    yield Nasty("1-bit.png", png(side, side, 1, 0, (b"\0" + b"\xaa" * 6) * side), DECODED)
    yield Nasty("2-bit.png", png(side, side, 2, 0, (b"\0" + b"\x1b" * 12) * side), DECODED)
    palette = image.convert("P")
    yield Nasty(
        "palette-alpha.png", encoded(palette, "PNG", transparency=bytes(range(256))), DECODED
    )
    yield Nasty("palette-alpha.gif", encoded(palette, "GIF", transparency=3), DECODED)
    yield Nasty("alpha.webp", encoded(image.convert("RGBA"), "WEBP"), DECODED)
    yield Nasty("grey-alpha.png", encoded(image.convert("LA"), "PNG"), DECODED)
    rows = (b"\0" + bytes(side)) * side
    yield Nasty("palette-missing.png", png(side, side, 8, 3, rows), EITHER)
    short = chunk(b"PLTE", b"\1\2\3")
    beyond = (b"\0" + b"\xff" * side) * side
    yield Nasty("palette-short.png", png(side, side, 8, 3, beyond, short), EITHER)
    yield Nasty("interlaced.png", png(side, side, 8, 2, b"", interlace=1))
    for value in (np.float32(1), np.int32(70_000)):
        deep = Image.fromarray(np.full((side, side), value))
        yield Nasty(f"{deep.mode}.tif", encoded(deep, "TIFF"), reason="32 bits per channel")


def _frames() -> Iterator[Nasty]:
    frames = [Image.new("RGB", (48, 48), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "PNG", "WEBP", "AVIF", "TIFF"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        yield Nasty(f"animated.{kind.lower()}", data, reason="animated, or of several pages")
    large = bytearray(encoded(frames[0], "GIF"))
    place = large.index(b",\0\0\0\0")
    large[place + 5 : place + 9] = b"\xff\xff\xff\xff"
    yield Nasty("frame-beyond-canvas.gif", bytes(large))
    several = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    yield Nasty("gain-map.jpg", several, DECODED)
    entries = several.index(b"MPF\0") + 4
    yield Nasty(
        "gain-map-broken.jpg", several[:entries] + b"\xff" * 40 + several[entries + 40 :], EITHER
    )


def _metadata() -> Iterator[Nasty]:
    image = picture()
    exif = {
        "itself": tiff({0x0112: (3, 1, 6)}, following=8),
        "its-parent": tiff({0x0112: (3, 1, 6), 0x8769: (4, 1, 8), 0x8825: (4, 1, 8)}),
        "nowhere": tiff({0x0112: (3, 1, 6), 0x8769: (4, 1, 0xFFFFFFF0)}),
        "a-huge-value": tiff({0x0112: (3, 1, 6), 0x010F: (2, 0xFFFFFFFF, 8)}),
        "many-orientations": tiff({0x0112: (3, 0x00FFFFFF, 8)}),
    }
    for name, directory in exif.items():
        yield Nasty(
            f"exif-{name}.jpg", encoded(image, "JPEG", exif=b"Exif\0\0" + directory), EITHER
        )
    yield Nasty("exif-99.jpg", encoded(image, "JPEG", exif=_oriented(99)), DECODED)
    yield Nasty("exif-junk.png", encoded(image, "PNG", exif=b"Exif\0\0" + b"\xff" * 200), DECODED)
    profile = bytes(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    other = profile.replace("sRGB".encode("utf-16-be"), b"\0O\0t\0h\0r")
    for name, junk in {
        "empty": b"x",
        "zeros": bytes(3000),
        "noise": random.Random(1).randbytes(3000),
        "many-tags": other[:128] + b"\xff\xff\xff\xff" + other[132:],
        "size": b"\xff\xff\xff\xff" + other[4:],
        "offsets": other[:132] + b"rXYZ\xff\xff\xff\xf0\xff\xff\xff\xf0" * 9 + other[240:],
        "cut": other[:400],
        "lab": bytes(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()),
    }.items():
        yield Nasty(f"icc-{name}.jpg", encoded(image, "JPEG", icc_profile=junk), DECODED)
    chunks = encoded(image, "JPEG", icc_profile=other).replace(
        b"ICC_PROFILE\0\1", b"ICC_PROFILE\0\7"
    )
    yield Nasty("icc-out-of-order.jpg", chunks, DECODED)
    text = b"comment\0" + b"A" * 5_000_000
    yield Nasty("long-text.png", _with(chunk(b"tEXt", text)), EITHER)


def _oriented(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def _with(*chunks: bytes, side: int = 48) -> bytes:
    """A grey PNG with chunks before its pixels."""
    return png(side, side, 8, 0, (b"\0" + bytes(side)) * side, *chunks)


def _structures() -> Iterator[Nasty]:
    image = picture()
    good, photo = encoded(image, "PNG"), encoded(image, "JPEG")
    damaged = bytearray(good)
    damaged[len(good) // 2] ^= 0xFF
    yield Nasty("bit-flip.png", bytes(damaged), reason="damaged")
    yield Nasty("no-end.png", good[:-12], EITHER)
    yield Nasty("tail.png", good + b"tail" * 1000, DECODED)
    yield Nasty("two-headers.png", good[:33] + good[8:], EITHER)
    yield Nasty("huge-chunk.png", good[:33] + b"\xff\xff\xff\xffIDAT" + good[41:], EITHER)
    yield Nasty("no-pixels.png", png(48, 48, 8, 2, b""))
    yield Nasty("colour-type-5.png", png(48, 48, 8, 5, bytes(10_000)))
    yield Nasty("no-tables.jpg", photo.replace(b"\xff\xc4", b"\xff\xfe"), EITHER)
    yield Nasty("12-bit.jpg", photo.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"))
    yield Nasty("lossless.jpg", photo.replace(b"\xff\xc0", b"\xff\xc3"))
    yield Nasty("zero-length-segment.jpg", photo[:2] + b"\xff\xe0\0\0" + photo[2:], EITHER)
    yield Nasty("photo-after-video.jpg", photo + random.Random(2).randbytes(300_000), DECODED)
    yield Nasty("loop.tif", tiff(_grey_tiff(48), bytes(48 * 48), following=8), EITHER)
    yield Nasty("strip-beyond.tif", tiff(_grey_tiff(48, **{"273": (4, 1, 10**9)}), bytes(48 * 48)))
    yield Nasty(
        "huge-strip.tif", tiff(_grey_tiff(48, **{"279": (4, 1, 2**32 - 1)}), bytes(2304)), EITHER
    )
    tiles = {"322": (4, 1, 2**30), "323": (4, 1, 2**30), "324": (4, 1, 110), "259": (3, 1, 8)}
    yield Nasty("huge-tile.tif", tiff(_grey_tiff(48, **tiles), zlib.compress(bytes(2304))))
    yield Nasty("samples.tif", tiff(_grey_tiff(48, **{"277": (3, 1, 60_000)}), bytes(2304)))
    yield Nasty("many-entries.tif", b"II*\0\x08\0\0\0\xff\xff" + bytes(12 * 65_535), EITHER)
    old_jpeg = {"259": (3, 1, 6), "513": (4, 1, 110), "514": (4, 1, 2304)}
    yield Nasty("old-jpeg.tif", tiff(_grey_tiff(48, **old_jpeg), photo))
    yield Nasty("riff-size.webp", encoded(image, "WEBP").replace(b"WEBP", b"WEBQ"), reason=NO_IMAGE)
    rle = bytearray(encoded(image.convert("P"), "BMP"))
    rle[30:34] = struct.pack("<I", 1)
    yield Nasty("junk-rle.bmp", bytes(rle), EITHER)
    offset = bytearray(encoded(image, "BMP"))
    offset[10:14] = b"\xff\xff\xff\xff"
    yield Nasty("pixels-beyond.bmp", bytes(offset))


def _bombs() -> Iterator[Nasty]:
    zeros = 300_000_000
    for name, kind in {"text": b"zTXt", "profile": b"iCCP"}.items():
        yield Nasty(f"bomb-{name}.png", partial(_bomb_of_metadata, kind, zeros), EITHER)
    yield Nasty("bomb-pixels.png", lambda: png(48, 48, 8, 2, bytes(zeros)), EITHER)
    yield Nasty("bomb-chunks.png", lambda: _with(chunk(b"teSt", b"") * 100_000), EITHER)
    yield Nasty("bomb-segments.jpg", lambda: _many_segments(200_000), reason="parts")
    yield Nasty("bomb-scans.jpg", lambda: _many_scans(100_000), reason="parts")
    yield Nasty("64-megapixels.png", lambda: png(8000, 8000, 8, 6, bytes(8000 * 32_001)), DECODED)
    grey = partial(png, 8000, 8000, 16, 0)
    yield Nasty("64-megapixels-16-bit.png", lambda: grey(bytes(8000 * 16_001)), DECODED)


def _bomb_of_metadata(kind: bytes, zeros: int) -> bytes:
    return _with(chunk(kind, b"a\0\0" + zlib.compress(bytes(zeros), 1)))


def _many_segments(count: int) -> bytes:
    photo = encoded(picture(), "JPEG")
    return photo[:2] + b"\xff\xef\0\x02" * count + photo[2:]


def _many_scans(count: int) -> bytes:
    """A photo of 64 megapixels in a megabyte, each of whose empty scans takes a walk over all."""
    photo = encoded(Image.new("L", (8000, 8000)), "JPEG", progressive=True)
    last = photo.rindex(b"\xff\xda")
    header = 2 + int.from_bytes(photo[last + 2 : last + 4])
    return photo[:-2] + photo[last : last + header] * count + photo[-2:]
