"""Captions are the paper's by default, or the user's; what is wrong with those is said at once."""

from pathlib import Path

import pytest
from PIL import Image

from dreambooth_api.models.subject import Subject
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.data.captions import Captions, has_identifier, load_captions
from dreambooth_trainer.data.images import SourceImage
from dreambooth_trainer.process.errors import BadDataError


def read(folder: Path | None, *names: str) -> Captions:
    subject = Subject(
        identifier="sks",
        class_noun="coffee mug",
        images="file:///images",
        captions=f"file://{folder}" if folder else None,
    )
    images = [SourceImage(name, Image.new("RGB", (8, 8)), "", f"s3://b/{name}") for name in names]
    return load_captions(Storage(StorageSettings()), subject, images, index=1)


def test_the_default_names_identifier_and_class() -> None:
    found = read(None, "a.png", "b.png")
    assert found == Captions(["a photo of sks coffee mug"] * 2, [])


def test_each_image_gets_its_own_file(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("a sks mug\n  on a table\n")
    (tmp_path / "a.png.txt").write_bytes("\ufeffein sks Becher, grün".encode())
    (tmp_path / "unused.txt").write_bytes(b"\xff")
    found = read(tmp_path, "a.png", "b.jpg")
    assert found == Captions(["ein sks Becher, grün", "a sks mug on a table"], [])


def test_images_of_one_stem_may_share_a_caption(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("sks one")
    (tmp_path / "a.png.txt").write_text("sks two")
    assert read(tmp_path, "a.jpg", "a.png").texts == ["sks one", "sks two"]
    (tmp_path / "a.png.txt").unlink()
    assert read(tmp_path, "a.jpg", "a.png").texts == ["sks one", "sks one"]


def test_every_bad_caption_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes("sks grün".encode("latin-1"))
    (tmp_path / "long.txt").write_text("sks " * 400)
    (tmp_path / "huge.txt").write_text("x" * 1_000_000)
    (tmp_path / "good.txt").write_text("a sks mug")
    names = [f"{stem}.png" for stem in ("empty", "latin", "long", "huge", "good", "none")]
    with pytest.raises(BadDataError) as caught:
        read(tmp_path, *names)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("spec.subjects[1].captions: 5 caption(s)")
    for start, reason in {
        "none.png": "has none: add none.txt",
        "empty.txt": "is empty",
        "latin.txt": "is not UTF-8",
        "long.txt": "is over 1000 characters",
        "huge.txt": "is over 1000 characters",
    }.items():
        assert any(line.strip().startswith(start) and reason in line for line in lines[1:]), start


def test_a_folder_without_captions_is_bad_data(tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match=r"spec.subjects\[1\].captions.*holds no files"):
        read(tmp_path, "a.png")


def test_a_caption_without_the_identifier_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a mug")
    (tmp_path / "b.txt").write_text("a sks mug")
    found = read(tmp_path, "a.png", "b.png")
    assert found.texts == ["a mug", "a sks mug"]
    [warning] = found.warnings
    assert warning.startswith("spec.subjects[1].captions: the identifier 'sks' is missing")
    assert "a.png" in warning
    assert "b.png" not in warning


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a photo of sks mug", True),
        ("a photo of SKS, the mug", True),
        ("(sks)", True),
        ("an asksed mug", False),
        ("", False),
    ],
)
def test_the_identifier_counts_as_a_whole_word(text: str, found: bool) -> None:
    assert has_identifier(text, "sks") is found


def test_an_identifier_may_have_punctuation() -> None:
    assert has_identifier("a photo of <sks> mug", "<sks>")
    assert has_identifier("a photo of sks! mug", "sks!")
