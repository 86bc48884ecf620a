"""Captions are the paper's by default, or the user's; what is wrong with those is said at once."""

import json
import unicodedata
from pathlib import Path
from typing import Any, Literal

import pytest

from dreambooth_api.models.subject import Subject
from dreambooth_api.schema.names import has_identifier
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.data.captions.captions import Captions, load_captions
from dreambooth_trainer.data.images import SourceImage
from dreambooth_trainer.process.errors import BadDataError


def read(folder: Path, *names: str, beside: bool = False, **settings: Any) -> Captions:
    subject = Subject(
        **settings,
        identifier="sks",
        class_noun="coffee mug",
        images=f"file://{folder}" if beside else "file:///images",
        captions=None if beside else f"file://{folder}",
    )
    images = [SourceImage(name, (8, 8), "", f"s3://b/{name}", "spec") for name in names]
    return load_captions(Storage(StorageSettings()), subject, images, index=1)


def test_the_default_names_identifier_and_class(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    found = read(tmp_path, "a.png", "b.png", beside=True)
    assert found == Captions(["a photo of sks coffee mug"] * 2)


@pytest.mark.parametrize(
    "caption", ["0.txt", "0.TXT", "0.caption", "0.Caption", "0.jpg.txt", "0.JPG.txt"]
)
def test_captions_beside_the_images_are_used(tmp_path: Path, caption: str) -> None:
    (tmp_path / caption).write_text("a sks mug on a table")
    found = read(tmp_path, "0.JPG" if "JPG" in caption else "0.jpg", beside=True)
    assert found.texts == ["a sks mug on a table"]
    assert found.notes == ["spec.subjects[1].images: the captions beside 1 of 1 images are used"]
    assert found.warnings == []


def test_an_image_without_a_caption_beside_it_gets_the_prompt_and_a_warning(tmp_path: Path) -> None:
    (tmp_path / "0.txt").write_text("sks on a table")
    found = read(tmp_path, "0.jpg", "1.jpg", beside=True)
    assert found.texts == ["sks on a table", "a photo of sks coffee mug"]
    assert found.warnings == [
        "spec.subjects[1].images: no caption is beside 1.jpg; 'a photo of sks coffee mug' is used"
    ]


def test_captions_beside_the_images_without_the_identifier_are_a_warning(tmp_path: Path) -> None:
    (tmp_path / "0.txt").write_text("a mug")
    [warning] = read(tmp_path, "0.jpg", beside=True).warnings
    assert warning.startswith("spec.subjects[1].images: the identifier 'sks' is missing")


def test_the_identifier_is_added_to_the_captions_that_lack_it(tmp_path: Path) -> None:
    (tmp_path / "0.txt").write_text("a mug on a table")
    (tmp_path / "1.txt").write_text("SKS mug")
    found = read(tmp_path, "0.jpg", "1.jpg", add_identifier=True)
    assert found.texts == ["sks coffee mug, a mug on a table", "SKS mug"]
    assert found.warnings == []
    assert found.notes == ["spec.subjects[1].addIdentifier: 'sks' is added to 1 of 2 captions"]


@pytest.mark.parametrize("beside", [False, True])
def test_metadata_jsonl_holds_captions(tmp_path: Path, beside: bool) -> None:
    lines = [
        {"file_name": "0.jpg", "text": "sks\n one"},
        {"file_name": "./1.jpg", "prompt": "sks two"},
        {"file_name": "of-another-folder.jpg", "text": ""},
        {"file_name": "2.jpg", "text": "the image's own file comes first"},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n\n".join(map(json.dumps, lines)) + "\n")
    (tmp_path / "2.txt").write_text("sks three")
    found = read(tmp_path, "0.jpg", "1.jpg", "2.jpg", beside=beside)
    assert found.texts == ["sks one", "sks two", "sks three"]


def test_broken_lines_of_metadata_jsonl_are_named(tmp_path: Path) -> None:
    lines = [
        b'{"file_name": "0.jpg", "text": ""}', b"0.jpg,a mug", b'{"file_name": "\xff"}',
        b'{"file_name": "1.jpg", "label": 3}', b"[" * 100_000,
    ]  # fmt: skip
    (tmp_path / "metadata.jsonl").write_bytes(b"\n".join(lines))
    with pytest.raises(BadDataError) as caught:
        read(tmp_path, "0.jpg", "1.jpg")
    assert str(caught.value).splitlines()[1:] == [
        "  metadata.jsonl line 1 is empty: describe the image",
        "  metadata.jsonl line 2 is not a JSON object in UTF-8",
        "  metadata.jsonl line 3 is not a JSON object in UTF-8",
        "  metadata.jsonl line 5 is not a JSON object in UTF-8",
        "  1.jpg has none: add 1.txt",
    ]


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_that_differ_in_normal_form_alone_match(
    tmp_path: Path, forms: tuple[Literal["NFC", "NFD"], Literal["NFC", "NFD"]]
) -> None:
    """An accent is a character of its own on macOS, and not on Linux or in most uploads."""
    images, files = forms
    (tmp_path / f"{unicodedata.normalize(files, 'größe')}.txt").write_text("sks one")
    line = {"file_name": unicodedata.normalize(files, "é.png"), "text": "sks two"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(line))
    names = [unicodedata.normalize(images, name) for name in ("größe.jpg", "é.png")]
    assert read(tmp_path, *names).texts == ["sks one", "sks two"]


def test_each_image_gets_its_own_file(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("a sks mug\n  on a table\n")
    (tmp_path / "a.png.txt").write_bytes("\ufeffein sks Becher, grün".encode())
    (tmp_path / "unused.txt").write_bytes(b"\xff")
    found = read(tmp_path, "a.png", "b.jpg")
    assert found == Captions(["ein sks Becher, grün", "a sks mug on a table"])


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
        ("a photo of a (sks:1.2) mug", True),
        ("sks-mug", True),
        ("\u4e00\u5f20sks\u7684\u7167\u7247", True),
        ("an asksed mug", False),
        ("sks2 mug", False),
        ("", False),
    ],
)
def test_the_identifier_counts_as_a_whole_word(text: str, found: bool) -> None:
    assert has_identifier(text, "sks") is found


def test_an_identifier_may_have_punctuation() -> None:
    assert has_identifier("a photo of <sks> mug", "<sks>")
    assert has_identifier("a photo of sks! mug", "sks!")
