"""Pictures are scaled down, upright, without metadata, and bounded together."""

from __future__ import annotations

import base64
import io
import os

import pytest
from PIL import Image

from dreambooth_report import pictures
from dreambooth_report.pictures import Picture, ReadStart, Request, fit, load, shrink
from dreambooth_storage import (
    ObjectNotFoundError,
    Storage,
    StorageSettings,
    StorageUnavailableError,
)
from tests.report.runs import picture


def noise(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.frombytes("RGB", (side, side), os.urandom(3 * side * side)).save(buffer, "PNG")
    return buffer.getvalue()


def decoded(embedded: Picture) -> Image.Image:
    head, _, data = embedded.data_uri.partition(",")
    assert head == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_a_photo_is_upright_small_and_has_no_metadata() -> None:
    image = Image.new("RGB", (900, 600), (200, 30, 30))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    exif[0x010E] = "where it was taken"
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    found = shrink(buffer.getvalue(), 480)
    assert found is not None
    assert (found.width, found.height) == (320, 480) == decoded(found).size
    assert not decoded(found).getexif()


def test_a_small_picture_is_kept_exactly() -> None:
    found = shrink(picture(1.0, 64), 480)
    assert found is not None
    original = Image.open(io.BytesIO(picture(1.0, 64)))
    assert decoded(found).convert("RGB").tobytes() == original.tobytes()


@pytest.mark.parametrize("data", [b"", b"no image", picture(0.0)[:200], b"<svg onload='x'/>"])
def test_what_is_no_picture_is_left_out(data: bytes) -> None:
    assert shrink(data, 480) is None


def test_too_many_pixels_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_PIXELS", 64 * 64 - 1)
    assert shrink(picture(0.0, 64), 480) is None


def test_pictures_get_smaller_until_all_fit() -> None:
    found: dict[Request, Picture] = {}
    for number in range(6):
        each = shrink(noise(200), 200)
        assert each is not None
        found[f"{number}.png", 200] = each
    total = sum(len(each.data_uri) for each in found.values())
    fitted = fit(found, total // 3)
    assert fitted.keys() == found.keys()
    assert sum(len(each.data_uri) for each in fitted.values()) <= total // 3
    assert fit(found, total) == found
    assert fit(found, 10) == {}


def reader(error: Exception) -> tuple[ReadStart, list[str]]:
    asked: list[str] = []

    def read(uri: str, _length: int) -> bytes:
        asked.append(uri)
        if uri.startswith("s3://gone/"):
            raise error
        return picture(0.0)

    return read, asked


def test_a_server_that_does_not_answer_is_not_asked_for_every_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pictures, "READERS", 1)
    read, asked = reader(StorageUnavailableError("s3://gone/0.png", "does not answer", ""))
    requests = {(f"s3://gone/{i}.png", 64) for i in range(9)} | {("s3://here/0.png", 64)}
    assert set(load(requests, read)) == {("s3://here/0.png", 64)}
    assert len(asked) == 2


def test_a_missing_picture_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "READERS", 1)
    read, asked = reader(ObjectNotFoundError("s3://gone/0.png", "is missing", ""))
    requests = {(f"s3://gone/{i}.png", 64) for i in range(3)} | {("s3://here/0.png", 32)}
    found = load(requests, read)
    assert [(uri, each.width) for (uri, _), each in found.items()] == [("s3://here/0.png", 32)]
    assert len(asked) == 4


def test_of_a_file_without_end_no_more_is_read_than_a_picture_may_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pictures, "MAX_BYTES", 1000)
    with Storage(StorageSettings()) as storage:
        assert load({("file:///dev/zero", 64)}, storage.read_start) == {}
