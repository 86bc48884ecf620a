"""A subject's folder as people have it: photos of phones among videos, captions and copies."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.data.crops import variants
from dreambooth_trainer.data.dataset import Dataset
from dreambooth_trainer.data.latents import ImageGroup
from dreambooth_trainer.data.subjects import SubjectData, load_subject
from dreambooth_trainer.process.errors import BadDataError
from dreambooth_trainer.resolved_job import ResolvedJob
from tests.trainer.resolved import job_with, resolve


def a_job(folder: Path) -> ResolvedJob:
    subject = {"identifier": "sks", "classNoun": "mug", "images": f"file://{folder}"}
    return resolve(job_with(subjects=[subject], training={"resolution": 64}))


def load(folder: Path) -> SubjectData:
    return load_subject(Storage(StorageSettings()), a_job(folder), 0)


def photo(folder: Path, name: str, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / name)


def test_four_heic_and_one_jpeg_are_five_photos(tmp_path: Path) -> None:
    for number in range(4):
        photo(tmp_path, f"IMG_{number}.HEIC", number)
    photo(tmp_path, "IMG_4.JPG", 4)
    found = load(tmp_path)
    assert len(found.images) == 5
    assert found.warnings == []


def test_a_subject_that_loses_most_of_its_images_is_refused_with_the_list(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"IMG_{number}.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    for number in range(2):
        photo(tmp_path, f"{number}.jpg", number)
    with pytest.raises(BadDataError) as caught:
        load(tmp_path)
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("spec.subjects[0].images: 3 of 5 images cannot be trained on")
    assert [line.split(":")[0] for line in lines] == [f"  IMG_{number}.HEIC" for number in range(3)]


def test_copies_videos_and_edits_are_no_lost_images(tmp_path: Path) -> None:
    """A folder copied from an iPhone: a video beside each live photo, and its edits."""
    for number in range(3):
        photo(tmp_path, f"IMG_{number}.HEIC", number)
        photo(tmp_path, f"IMG_{number}.copy.HEIC", number)
        (tmp_path / f"IMG_{number}.MOV").write_bytes(b"\0\0\0\x14ftypqt  ")
        (tmp_path / f"IMG_{number}.AAE").write_text("<plist/>")
    found = load(tmp_path)
    assert len(found.images) == 3
    [warning] = found.warnings
    assert warning.startswith("spec.subjects[0].images: 6 file(s) are not trained on, 3 are:")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_fewer_than_three_images_are_a_warning(tmp_path: Path, count: int) -> None:
    for number in range(count):
        photo(tmp_path, f"{number}.png", number)
    warnings = load(tmp_path).warnings
    expected = f"spec.subjects[0].images: {count} image(s) are few to learn a subject from"
    assert [warning.startswith(expected) for warning in warnings] == [True] * (count < 3)


def test_other_captions_are_other_contents(tmp_path: Path) -> None:
    """Without a hash of them, a resumed run would train on captions that came in between."""

    def hashes() -> dict[str, str]:
        found = load(tmp_path)
        group = ImageGroup(found.images, found.captions, variants("center", flip=False))
        return Dataset(a_job(tmp_path), [group], {}).hashes()

    photo(tmp_path, "0.png", 0)
    without = hashes()
    assert without.keys() == {"sks/0.png"}
    (tmp_path / "0.txt").write_text("sks on a table")
    on_table = hashes()
    (tmp_path / "0.txt").write_text("sks on a chair")
    on_chair = hashes()
    assert on_table.keys() == on_chair.keys() == {"sks/0.png", "sks: captions"}
    assert on_table["sks: captions"] != on_chair["sks: captions"]


def test_images_of_one_name_have_a_hash_each(tmp_path: Path) -> None:
    """Class images of several shapes are numbered anew in each: none may change unnoticed."""
    for folder in ("upright", "across"):
        (tmp_path / folder).mkdir()
        photo(tmp_path / folder, "00000.png", len(folder))
    images = [image for name in ("upright", "across") for image in load(tmp_path / name).images]
    group = ImageGroup(images, ["a photo of a mug"] * 2, variants("center", flip=False))
    hashes = Dataset(a_job(tmp_path), [group], {"mug": group}).hashes()
    assert hashes["class mug/00000.png"] == images[0].sha256
    assert hashes["class mug/00000.png (2)"] == images[1].sha256
