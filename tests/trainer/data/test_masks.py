"""Masks of a subject's images, in the names that people have them under."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.data.buckets import nearest_shape
from dreambooth_trainer.data.cache import TrainingCache, build_cache
from dreambooth_trainer.data.dataset import Dataset, subject_groups
from dreambooth_trainer.data.latents import ImageGroup, LatentStore
from dreambooth_trainer.data.subjects import SubjectData, load_subject
from dreambooth_trainer.evaluation.references import load_references
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.errors import BadDataError
from dreambooth_trainer.process.topology import Topology
from tests.trainer.resolved import job_with, resolve

STORAGE = Storage(StorageSettings())


class PixelFamily:
    """A family whose latents are the pixels."""

    model_hash = "ab"

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        return 3, height, width

    def encode_images(self, pixels: Tensor) -> Tensor:
        return pixels

    def tokenize(self, captions: list[str]) -> dict[str, Tensor]:
        return {"tokens": torch.zeros(len(captions), 1)}


def a_job(folder: Path, subject: dict[str, Any], **training: Any) -> Any:
    place = {"identifier": "sks", "classNoun": "mug", "images": f"file://{folder}"}
    trained = {"resolution": 64, "flip": False, **training}
    return resolve(job_with(subjects=[{**place, **subject}], training=trained))


def load(folder: Path, **subject: Any) -> SubjectData:
    return load_subject(STORAGE, a_job(folder, subject), 0)


def cache(folder: Path, subject: dict[str, Any], **training: Any) -> TrainingCache:
    job = a_job(folder, subject, **training)
    family: Any = PixelFamily()
    return build_cache(
        family,
        subject_groups(job, [load_subject(STORAGE, job, 0)], step=4),
        64,
        text_is_trained=True,
        store=LatentStore(STORAGE, f"file://{folder}/latents"),
        ranks=Ranks(Topology()),
        device=torch.device("cpu"),
    )


def mask(size: tuple[int, int]) -> Image.Image:
    """White on the left quarter."""
    image = Image.new("L", size, 0)
    image.paste(255, (0, 0, size[0] // 4, size[1]))
    return image


def photo(folder: Path, name: str, size: tuple[int, int] = (64, 64), level: int = 0) -> None:
    Image.new("RGB", size, (200, level, 90)).save(folder / name)


def with_alpha(folder: Path, name: str, size: tuple[int, int] = (64, 64)) -> None:
    image = Image.new("RGBA", size, (200, 20, 90, 255))
    image.putalpha(mask(size))
    image.save(folder / name)


@pytest.mark.parametrize("name", ["0-masklabel.png", "0.mask.png", "0_MASK.webp", "0.jpg-mask.png"])
def test_a_mask_file_is_known_by_the_names_of_other_trainers(tmp_path: Path, name: str) -> None:
    photo(tmp_path, "0.jpg")
    photo(tmp_path, "my_mask.jpg", level=9)  # a picture of a mask
    mask((64, 64)).save(tmp_path / name)
    found = load(tmp_path, mask="file")
    assert [image.name for image in found.images] == ["0.jpg", "my_mask.jpg"]
    assert [image.mask and image.mask.uri for image in found.images] == [
        f"file://{tmp_path}/{name}", None,
    ]  # fmt: skip
    assert "spec.subjects[0].mask: my_mask.jpg has no mask, so all of it is trained on" in (
        found.warnings
    )


@pytest.mark.parametrize("kind", ["alpha", "file"])
@pytest.mark.parametrize(
    ("weight", "within", "outside"),
    [(None, 1 / 0.325, 0.1 / 0.325), (0.0, 4.0, 0.0), (0.5, 1 / 0.625, 0.5 / 0.625)],
)
def test_the_loss_counts_less_outside_and_as_much_in_all(
    tmp_path: Path, kind: str, weight: float | None, within: float, outside: float
) -> None:
    if kind == "alpha":
        with_alpha(tmp_path, "0.png")
    else:
        photo(tmp_path, "0.png")
        mask((32, 32)).save(tmp_path / "0-masklabel.png")  # in a smaller size
    photo(tmp_path, "1.png", level=50)
    weights = cache(tmp_path, {"mask": kind, "maskWeight": weight}).loss_weights
    assert weights is not None
    expected = torch.full((64, 64), outside)
    expected[:, :16] = within
    torch.testing.assert_close(weights[0, 0], expected)
    assert weights[1].eq(1).all()
    assert weights.mean((1, 2, 3)) == pytest.approx(1)


def test_masks_are_cropped_and_mirrored_as_their_images_are(tmp_path: Path) -> None:
    # The mask is the picture itself, so they must agree at every place of every variant.
    picture = Image.linear_gradient("L").rotate(90).resize((192, 128))
    picture.convert("RGB").save(tmp_path / "0.png")
    picture.save(tmp_path / "0.mask.png")
    for crop, (width, height) in {
        "random": (64, 64),
        "none": nearest_shape((192, 128), 64, 4),
    }.items():
        made = cache(tmp_path, {"mask": "file", "maskWeight": 0}, crop=crop, flip=True)
        rows = torch.arange(len(made.moments))
        shown = (made.moments_of(rows, height, width)[:, :1] + 1) / 2
        weights = made.loss_weights_of(rows, height, width)
        torch.testing.assert_close(
            weights, shown / shown.mean((1, 2, 3), keepdim=True), atol=0.06, rtol=0
        )
        assert weights is not None
        assert len({tuple(row.flatten().tolist()) for row in weights}) == len(rows)


def test_a_photo_that_is_upright_by_its_metadata_has_an_upright_mask(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGB", (64, 48), "red")
    image.save(tmp_path / "0.jpg", exif=exif)
    mask((48, 64)).save(tmp_path / "0.mask.png")
    assert load(tmp_path, mask="file").images[0].mask
    mask((64, 48)).save(tmp_path / "0.mask.png")
    with pytest.raises(BadDataError, match=r"0\.mask\.png is 64 x 48 pixels, which are other"):
        load(tmp_path, mask="file")


def bad_size(folder: Path) -> None:
    mask((64, 32)).save(folder / "0.mask.png")


def empty(folder: Path) -> None:
    Image.new("L", (64, 64), 9).save(folder / "0.mask.png")


def broken(folder: Path) -> None:
    (folder / "0.mask.png").write_bytes(b"\x89PNG broken")


def missing(_folder: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (bad_size, "0.mask.png is 64 x 32 pixels, which are other proportions than those of 0.jpg"),
        (empty, "0.mask.png marks nothing: the subject must be white"),
        (broken, "0.mask.png cannot be read: not an image, or damaged"),
        (missing, "no mask is beside the images there; name that of 0.jpg 0-masklabel.png"),
    ],
)
def test_a_mask_that_cannot_be_used_is_named(tmp_path: Path, spoil: Any, reason: str) -> None:
    photo(tmp_path, "0.jpg")
    spoil(tmp_path)
    with pytest.raises(BadDataError) as caught:
        load(tmp_path, mask="file")
    assert str(caught.value).startswith("spec.subjects[0].mask: ")
    assert reason in str(caught.value)


@pytest.mark.parametrize(("crop", "warns"), [("center", True), ("random", False), ("none", False)])
def test_a_subject_outside_of_the_crop_is_a_warning(tmp_path: Path, crop: str, warns: bool) -> None:
    for level in range(3):
        photo(tmp_path, f"{level}.png", (256, 64), level)
    for level in range(2):
        mask((256, 64)).save(tmp_path / f"{level}.mask.png")  # its left quarter
    Image.new("L", (256, 64), 255).save(tmp_path / "2.mask.png")
    loaded = load_subject(STORAGE, a_job(tmp_path, {"mask": "file"}, crop=crop), 0)
    warning = (
        "spec.subjects[0].mask: the subject of 0.png, 1.png is outside of the square that is"
        " trained on (crop: center); set spec.training.crop to none, or cut it out"
    )
    assert loaded.warnings == ([warning] if warns else [])


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_alpha_needs_transparent_parts(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (64, 64), "red").save(tmp_path / "0.png")
    with pytest.raises(BadDataError, match="no image there has transparent parts"):
        load(tmp_path, mask="alpha")


def test_transparent_parts_of_a_mask_file_mark_nothing(tmp_path: Path) -> None:
    photo(tmp_path, "0.jpg")
    white = Image.new("LA", (64, 64), (255, 255))
    white.putalpha(mask((64, 64)))
    white.save(tmp_path / "0.mask.png")
    weights = cache(tmp_path, {"mask": "file", "maskWeight": 0}).loss_weights
    assert weights is not None
    assert weights[0, 0, 0].tolist() == [4.0] * 16 + [0.0] * 48


def test_a_caption_beside_a_mask_is_no_mask(tmp_path: Path) -> None:
    photo(tmp_path, "0.jpg")
    mask((64, 64)).save(tmp_path / "0_mask.png")
    (tmp_path / "0_mask.txt").write_text("black and white")
    [image] = load(tmp_path, mask="file").images
    assert image.mask
    assert image.mask.uri.endswith("0_mask.png")


def test_masks_are_no_pictures_of_the_subject_to_compare_with(tmp_path: Path) -> None:
    for number in range(2):
        photo(tmp_path, f"{number}.jpg", level=90 * number)
        mask((64, 64)).rotate(90 * number).save(tmp_path / f"{number}.mask.png")
    attempt: Any = SimpleNamespace(job=a_job(tmp_path, {"mask": "file"}), storage=STORAGE)
    assert len(load_references(attempt, 0).training) == 2


def test_other_masks_are_other_contents(tmp_path: Path) -> None:
    """Without a hash of them, a resumed run would train on masks that came in between."""

    def hashes() -> dict[str, str]:
        job = a_job(tmp_path, {"mask": "file"})
        groups: list[ImageGroup] = subject_groups(job, [load_subject(STORAGE, job, 0)], step=4)
        return Dataset(job, groups, {}).hashes()

    photo(tmp_path, "0.jpg")
    mask((64, 64)).save(tmp_path / "0.mask.png")
    before = hashes()
    mask((64, 64)).rotate(90).save(tmp_path / "0.mask.png")
    assert before.keys() == hashes().keys() == {"sks/0.jpg", "sks: masks"}
    assert before != hashes()


def test_masks_that_the_job_does_not_name_are_a_warning(tmp_path: Path) -> None:
    photo(tmp_path, "0.png")
    photo(tmp_path, "my_mask.png", level=99)
    about = "spec.subjects[0].mask: "
    assert not [each for each in load(tmp_path).warnings if each.startswith(about)]
    mask((64, 64)).save(tmp_path / "0-masklabel.png")
    [warning] = [each for each in load(tmp_path).warnings if each.startswith(about)]
    assert warning.startswith(f"{about}0-masklabel.png looks like the mask of another image")
