"""Every kind of image file ends as the right upright RGB pixels, or as a reason why not."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from dreambooth_trainer.data.decode import UnreadableImageError, decode

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    image = decode(data)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def corners() -> Image.Image:
    """24 x 16: red above left, green above right, blue below left, white below right."""
    image = Image.new("RGB", (24, 16), WHITE)
    image.paste(RED, (0, 0, 12, 8))
    image.paste(GREEN, (12, 0, 24, 8))
    image.paste(BLUE, (0, 8, 12, 16))
    return image


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG", "AVIF"])
def test_every_format_keeps_its_colours(kind: str) -> None:
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}
    found = pixels(encoded(corners(), kind, **options.get(kind, {})))
    tolerance = {"JPEG": 6, "AVIF": 24}.get(kind, 0)
    for (y, x), colour in {(2, 2): RED, (2, 21): GREEN, (13, 2): BLUE, (13, 21): WHITE}.items():
        assert np.abs(found[y, x] - colour).max() <= tolerance, (kind, y, x)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(kind: str, orientation: int) -> None:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # stored rotated by 90 degrees to the left of upright
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = corners() if orientation == 1 else corners().transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if kind in ("JPEG", "AVIF") else {}
    found = pixels(encoded(stored, kind, exif=exif, **options))
    assert found.shape == (16, 24, 3)
    for (y, x), colour in {(2, 2): RED, (2, 21): GREEN, (13, 2): BLUE, (13, 21): WHITE}.items():
        assert np.abs(found[y, x] - colour).max() <= 40, (y, x)


def test_transparency_is_laid_over_white() -> None:
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    image.putpixel((1, 1), (0, 0, 255, 255))
    image.putpixel((2, 2), (0, 0, 0, 128))
    found = pixels(encoded(image))
    assert tuple(found[0, 0]) == WHITE  # the invisible red under it must not show
    assert tuple(found[1, 1]) == BLUE
    assert tuple(found[2, 2]) == (127, 127, 127)


def test_grey_with_transparency_is_laid_over_white() -> None:
    image = Image.new("LA", (8, 8), (0, 0))
    image.putpixel((1, 1), (60, 255))
    found = pixels(encoded(image))
    assert tuple(found[0, 0]) == WHITE
    assert tuple(found[1, 1]) == (60, 60, 60)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_palettes_transparent_entry_is_laid_over_white(kind: str) -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((3, 3), 1)
    found = pixels(encoded(image, kind, transparency=0))
    assert tuple(found[0, 0]) == WHITE
    assert tuple(found[3, 3]) == BLUE


def test_a_transparent_colour_of_rgb_is_laid_over_white() -> None:
    image = Image.new("RGB", (8, 8), RED)
    image.putpixel((3, 3), BLUE)
    found = pixels(encoded(image, transparency=RED))
    assert tuple(found[0, 0]) == WHITE
    assert tuple(found[3, 3]) == BLUE


@pytest.mark.parametrize(
    ("mode", "value", "colour"),
    [("L", 77, (77, 77, 77)), ("1", 1, WHITE), ("P", 0, (10, 20, 30))],
)
def test_grey_bilevel_and_palette_become_rgb(
    mode: str, value: int, colour: tuple[int, int, int]
) -> None:
    image = Image.new(mode, (8, 8), value)
    if mode == "P":
        image.putpalette([10, 20, 30])
    assert tuple(pixels(encoded(image))[4, 4]) == colour


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_converted(kind: str) -> None:
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    found = pixels(encoded(cyan, kind))[4, 4]
    assert found[0] < 30
    assert found[1:].min() > 225


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    levels = np.array([[0, 257, 32768, 65535]] * 4, dtype=np.uint16)
    found = pixels(encoded(Image.fromarray(levels), kind))
    assert found[0, :, 0].tolist() == [0, 1, 128, 255]


def test_16_bit_colour_is_scaled() -> None:
    row = b"\0" + struct.pack(">3H", 65535, 32768, 257) * 8
    header = struct.pack(">2I5B", 8, 8, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(row * 8)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
    assert tuple(pixels(data)[4, 4]) == (255, 128, 1)


def srgb_profile() -> bytes:
    return bytes(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())


def test_a_colour_profile_is_converted_to_srgb() -> None:
    """A colour space with sRGB's red and green in exchange."""
    swapped = srgb_profile().replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ")
    swapped = swapped.replace(b"????", b"gXYZ").replace("sRGB".encode("utf-16-be"), b"\0O\0t\0h\0r")
    found = pixels(encoded(corners(), icc_profile=swapped))
    assert np.abs(found[2, 2] - GREEN).max() <= 2
    assert np.abs(found[2, 21] - RED).max() <= 2


def test_pixels_that_are_srgb_already_are_left_alone() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    found = pixels(encoded(Image.fromarray(noise), icc_profile=srgb_profile()))
    assert (found == noise).all()


def test_a_profile_of_another_colour_space_does_not_matter() -> None:
    other = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert tuple(pixels(encoded(corners(), icc_profile=other))[2, 2]) == RED


def test_a_broken_profile_does_not_matter() -> None:
    found = pixels(encoded(corners(), icc_profile=b"no profile at all"))
    assert tuple(found[2, 2]) == RED


def test_a_phones_jpeg_with_a_second_picture_is_no_animation() -> None:
    data = encoded(corners(), "MPO", save_all=True, append_images=[Image.new("RGB", (12, 8))])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert pixels(data).shape == (16, 24, 3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_several_frames_are_refused(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, BLUE)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.raises(UnreadableImageError, match="animated, or of several pages"):
        decode(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF"])
@pytest.mark.parametrize("kept", [0.2, 0.6, 0.95])
def test_a_truncated_file_is_refused(kind: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(UnreadableImageError):
        decode(data[: int(len(data) * kept)])


def test_a_flipped_byte_in_a_png_is_noticed() -> None:
    data = bytearray(encoded(corners()))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(UnreadableImageError, match="damaged"):
        decode(bytes(data))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"just some text", "not an image"),
        (b"%PDF-1.7 and so on", "not an image"),
        (b"\0\0\0\x18ftypheic" + bytes(64), "not an image, or damaged"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    ],
)
def test_what_is_no_image_says_so(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImageError, match=reason):
        decode(data)


def test_32_bits_per_channel_are_refused() -> None:
    deep = Image.fromarray(np.ones((8, 8), dtype=np.float32))
    with pytest.raises(UnreadableImageError, match="32 bits"):
        decode(encoded(deep, "TIFF"))


@pytest.mark.parametrize("side", [8_001, 30_000])
def test_a_decompression_bomb_is_refused_by_its_header(side: int) -> None:
    header = struct.pack(">2I5B", side, side, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk
    data += struct.pack(">I", zlib.crc32(chunk)) + struct.pack(">I", 10) + b"IDAT"
    with pytest.raises(UnreadableImageError, match="limit"):
        decode(data)


def test_small_images_are_refused_by_the_shorter_side() -> None:
    data = encoded(Image.new("RGB", (640, 255)))
    with pytest.raises(UnreadableImageError, match=r"640 x 255 pixels are too small.*at least 256"):
        decode(data, smallest=256)
    assert decode(data, smallest=255).size == (640, 255)


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_photos_of_phones_are_read(kind: str) -> None:
    """Its first picture, in the colours of its profile: phones add depth maps and bursts to it."""
    quarters = Image.fromarray(np.kron([[200, 20], [90, 250]], np.ones((32, 32))).astype(np.uint8))
    photo = quarters.convert("RGB")
    more = {"save_all": True, "append_images": [Image.new("RGB", (64, 64))]}
    found = decode(encoded(photo, kind, quality=95, **(more if kind == "HEIF" else {})))
    assert found.size == (64, 64)
    assert np.abs(np.asarray(found).astype(int) - np.asarray(photo)).max() <= 8


@pytest.mark.parametrize("size", [(9248, 6936), (12000, 9000)], ids=["64 MP", "108 MP"])
def test_a_jpeg_of_many_megapixels_is_decoded_at_half_its_size(size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.new("RGB", size, (200, 30, 90)), "JPEG", exif=exif)
    found = decode(data, smallest=size[1])
    assert found.size == (size[1] // 2, size[0] // 2)
    assert found.getpixel((9, 9)) == pytest.approx((200, 30, 90), abs=2)


def test_a_jpeg_is_halved_only_above_the_limit() -> None:
    data = encoded(Image.new("RGB", (64, 48)), "JPEG")
    assert decode(data, max_pixels=64 * 48).size == (64, 48)
    assert decode(data, max_pixels=64 * 48 - 1).size == (32, 24)
    with pytest.raises(UnreadableImageError, match="64 x 48 pixels are over the limit"):
        decode(data, max_pixels=64 * 48 // 4 - 1)
    progressive = encoded(Image.new("RGB", (64, 48)), "JPEG", progressive=True)
    with pytest.raises(UnreadableImageError, match="64 x 48 pixels are over the limit"):
        decode(progressive, max_pixels=64 * 48 // 2 - 1)
