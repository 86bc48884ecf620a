"""A folder of files becomes the images to train on, and one report of what was refused."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreambooth_storage import (
    NoSuchBucketError,
    ObjectNotFoundError,
    Storage,
    StorageSettings,
    join,
)
from dreambooth_trainer.data.crops import Variant, crop_to_square, variants
from dreambooth_trainer.data.images import (
    FolderLimits,
    ImageSet,
    load_images,
    read_pixels,
)
from dreambooth_trainer.process.errors import BadDataError

FIELD = "spec.subjects[0].images"
EXAMPLES = Path(__file__).parents[3] / "examples" / "subjects"


@pytest.fixture
def storage() -> Storage:
    return Storage(StorageSettings())


def noise(seed: int, width: int = 64, height: int = 64) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def load(storage: Storage, folder: Path | str, **options: object) -> ImageSet:
    uri = folder if isinstance(folder, str) else f"file://{folder}"
    return load_images(storage, uri, field=FIELD, resolution=64, **options)


def pixels(storage: Storage, found: ImageSet) -> list[Image.Image]:
    return list(read_pixels(storage, found.images))


def test_images_come_in_the_order_of_their_names_with_their_hashes(
    storage: Storage, tmp_path: Path
) -> None:
    for seed, name in enumerate(["c.png", "a.png", "b.png"]):
        (tmp_path / name).write_bytes(png(noise(seed)))
    found = load(storage, tmp_path)
    assert [image.name for image in found.images] == ["a.png", "b.png", "c.png"]
    assert pixels(storage, found)[0].tobytes() == noise(1).tobytes()
    content = (tmp_path / "a.png").read_bytes()
    assert found.images[0].sha256 == hashlib.sha256(content).hexdigest()
    assert found.report(FIELD) == ""


def test_one_report_names_every_refused_file_with_its_reason(
    storage: Storage, tmp_path: Path
) -> None:
    good = png(noise(0))
    animated = io.BytesIO()
    noise(1).save(animated, "GIF", save_all=True, append_images=[noise(2)])
    files = {
        "1-good.png": good,
        "2-copy.png": good,
        "3-same-pixels.bmp": b"",
        "4-animated.gif": animated.getvalue(),
        "5-truncated.png": png(noise(3))[:2000],
        "6-small.png": png(noise(4, width=31)),
        "7-text.jpg": b"no image",
        "8-empty.png": b"",
        "9-big.png": png(noise(5, width=200, height=200)),
        "good-too.png": png(noise(6, width=32)),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    noise(0).save(tmp_path / "3-same-pixels.bmp")
    found = load(storage, tmp_path, limits=FolderLimits(max_pixels=100 * 100))
    assert [image.name for image in found.images] == ["1-good.png", "good-too.png"]
    reasons = {refused.name: refused.reason for refused in found.rejected}
    assert reasons.keys() == files.keys() - {"1-good.png", "good-too.png"}
    assert reasons["2-copy.png"] == "the same picture as 1-good.png"
    assert reasons["3-same-pixels.bmp"] == "the same picture as 1-good.png"
    assert "animated" in reasons["4-animated.gif"]
    assert "damaged or truncated" in reasons["5-truncated.png"]
    assert "31 x 64 pixels are too small" in reasons["6-small.png"]
    assert "not an image" in reasons["7-text.jpg"]
    assert "empty" in reasons["8-empty.png"]
    assert "200 x 200 pixels are over the limit" in reasons["9-big.png"]
    report = found.report(FIELD).splitlines()
    assert report[0] == f"{FIELD}: 8 file(s) are not trained on, 2 are:"
    assert len(report) == 9


def test_files_over_the_size_limit_are_refused_unread(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(noise(0)))
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(10**12)  # sparse: reading it would fill the memory
    found = load(storage, tmp_path)
    assert [image.name for image in found.images] == ["a.png"]
    assert "over the limit" in found.rejected[0].reason


def test_captions_hidden_files_and_sub_folders_are_passed_over(
    storage: Storage, tmp_path: Path
) -> None:
    (tmp_path / "held-out").mkdir()
    for name in ("a.png", "held-out/other.png"):
        (tmp_path / name).write_bytes(png(noise(0)))
    for name in ("a.txt", "a.png.TXT", "metadata.jsonl", ".DS_Store", "._a.png", "Thumbs.db"):
        (tmp_path / name).write_text("beside")
    found = load(storage, tmp_path)
    assert [image.name for image in found.images] == ["a.png"]
    assert found.rejected == []


def test_links_to_nothing_are_reported_as_lost_images(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(noise(0)))
    for name in ("b.png", "b.txt", "no.mp4"):
        (tmp_path / name).symlink_to(f"absent/{name}")
    found = load(storage, tmp_path, count=1)
    assert [str(each) for each in found.rejected] == [
        "b.png: a link whose target does not exist",
        "no.mp4: a link whose target does not exist",
    ]
    assert [each.is_lost for each in found.rejected] == [True, False]
    assert found.unread == 0


def test_folder_of_links_to_nothing_names_them(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "b.png").symlink_to("absent.png")
    with pytest.raises(BadDataError, match=r"holds no files(.|\n)*b.png: a link whose target"):
        load(storage, tmp_path)


def test_the_first_count_good_images_are_taken(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"damaged")
    for seed in range(1, 5):
        (tmp_path / f"{seed}.png").write_bytes(png(noise(seed)))
    found = load(storage, tmp_path, count=2)
    assert [image.name for image in found.images] == ["1.png", "2.png"]


def test_a_folder_without_a_good_image_lists_what_is_wrong(
    storage: Storage, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(b"one")
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(
        BadDataError, match=r"(?s)spec.subjects\[0\].images: no image .*a.png.*b.png"
    ):
        load(storage, tmp_path)


def test_an_empty_folder_is_bad_data(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match=r"spec.subjects\[0\].images.*holds no files"):
        load(storage, tmp_path)


def test_image_in_place_of_its_folder_is_named(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(noise(0)))
    with pytest.raises(BadDataError, match=rf"a.png is one file; name its folder, .*{tmp_path}$"):
        load(storage, tmp_path / "a.png")


def test_a_folder_of_folders_says_which_to_name(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "a.png").write_bytes(png(noise(0)))
    with pytest.raises(BadDataError, match=r"sub-folders only, as dog/a.png"):
        load(storage, tmp_path)


def test_too_many_files_are_refused_before_any_is_read(storage: Storage, tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(b"")
    with pytest.raises(BadDataError, match="holds 4 files, over the limit of 3"):
        load(storage, tmp_path, limits=FolderLimits(max_files=3))


def test_images_stream_from_s3(s3_endpoint: str, bucket: str) -> None:
    storage = Storage(StorageSettings(s3_endpoint, "us-east-1", "path"))
    uri = f"s3://{bucket}/dog"
    for seed in range(20):
        storage.write(join(uri, f"{seed:02d}.png"), png(noise(seed)))
    storage.write(join(f"s3://{bucket}/dog2", "other.png"), png(noise(99)))
    storage.write(join(uri, "bad.png"), b"bad")
    found = load(storage, uri)
    assert [image.name for image in found.images] == [f"{seed:02d}.png" for seed in range(20)]
    assert all(
        image.tobytes() == noise(seed).tobytes()
        for seed, image in enumerate(pixels(storage, found))
    )
    assert [refused.name for refused in found.rejected] == ["bad.png"]
    with pytest.raises(
        (NoSuchBucketError, ObjectNotFoundError), match=r"spec.subjects\[0\].images"
    ):
        load(storage, "s3://no-such-bucket-here/dog")


@pytest.mark.parametrize("subject", sorted(p.name for p in EXAMPLES.iterdir()))
def test_the_examples_subjects_have_no_fault(storage: Storage, subject: str) -> None:
    found = load(storage, EXAMPLES / subject)
    assert len(found.images) == 5
    assert found.rejected == []


def test_large_images_are_reduced_in_proportion(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(png(noise(0, width=400, height=130)))
    (tmp_path / "small.png").write_bytes(png(noise(1, width=40, height=50)))
    found = load(storage, tmp_path)
    assert [image.size for image in found.images] == [(197, 64), (40, 50)]
    assert [image.size for image in pixels(storage, found)] == [(197, 64), (40, 50)]


def test_a_crop_keeps_the_proportions() -> None:
    """A circle stays a circle: as wide as high after cropping."""
    image = Image.new("RGB", (200, 100), "black")
    y, x = np.mgrid[:100, :200]
    disc = (x - 100) ** 2 + (y - 50) ** 2 < 40**2
    image.paste("white", mask=Image.fromarray(disc))
    square = crop_to_square(image, 64, Variant(0.5, mirror=False))
    white = square[0].numpy() > 0
    assert np.flatnonzero(white.any(0)).size == pytest.approx(51, abs=1)
    assert np.flatnonzero(white.any(1)).size == pytest.approx(51, abs=1)


def test_a_crop_is_float_channels_first_in_minus_one_to_one() -> None:
    image = Image.new("RGB", (64, 64), (255, 0, 51))
    square = crop_to_square(image, 64, Variant(0.5, mirror=False))
    assert square.shape == (3, 64, 64)
    assert square.dtype.is_floating_point
    assert square[:, 5, 5].tolist() == pytest.approx([1.0, -1.0, -0.6])


@pytest.mark.parametrize("upright", [False, True])
def test_the_position_moves_the_crop_along_the_longer_side(upright: bool) -> None:
    ramp = np.tile(np.linspace(0, 255, 192).round().astype(np.uint8), (64, 1))
    image = Image.fromarray(np.stack([ramp.T if upright else ramp] * 3, axis=-1))
    first, middle, last = (
        crop_to_square(image, 64, Variant(position, mirror=False))[0] for position in (0, 0.5, 1)
    )
    assert first.max() < middle.min()
    assert middle.max() < last.min()
    assert first.min() == -1
    assert last.max() == 1


def test_mirroring_flips_left_and_right() -> None:
    image = noise(0)
    plain = crop_to_square(image, 64, Variant(0.5, mirror=False))
    mirrored = crop_to_square(image, 64, Variant(0.5, mirror=True))
    assert mirrored.flip(-1).equal(plain)


def test_small_images_are_enlarged() -> None:
    assert crop_to_square(noise(0, 40, 33), 64, Variant(1, mirror=False)).shape == (3, 64, 64)


def test_variants_of_every_setting() -> None:
    assert variants("center", flip=False) == [Variant(0.5, mirror=False)]
    assert variants("center", flip=True) == [Variant(0.5, mirror=False), Variant(0.5, mirror=True)]
    random = variants("random", flip=True)
    assert len(random) == len(set(random)) == 16
    assert {variant.position for variant in random} >= {0, 1}
    assert len(variants("random", flip=False)) == 8
