"""No image file crashes a rank, hangs it or fills its memory: it is decoded or refused in words."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.data.decode import UnreadableImageError, decode
from dreambooth_trainer.data.images import RejectedImage, load_images
from tests.trainer.data.nasty_images import EITHER, SIGNATURE, chunk, corpus, encoded, picture

ROOT = Path(__file__).parents[3]
MIB = 1024**2
LARGEST = 800 * MIB
"""What decoding may add to a process, at the limit of 64 megapixels; 4 bytes each are 244 MiB."""
SMALL = 150 * MIB
SECONDS = 10.0
CORPUS = {nasty.name: nasty for nasty in corpus()}


@pytest.fixture(scope="module")
def fates() -> dict[str, Any]:
    """What became of each file in a process with bounded memory, which must live to its end."""
    command = [sys.executable, "-m", "tests.trainer.data.examine_images"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    return {fate["name"]: fate for fate in map(json.loads, done.stdout.splitlines())}


def test_the_corpus_is_large_and_looked_at_whole(fates: dict[str, Any]) -> None:
    assert len(CORPUS) > 150
    assert fates.keys() == CORPUS.keys()


@pytest.mark.parametrize("name", CORPUS)
def test_a_nasty_file_is_decoded_or_refused_in_words(fates: dict[str, Any], name: str) -> None:
    nasty, found = CORPUS[name], fates[name]
    fate, _, reason = found["fate"].partition(": ")
    assert fate != "crashed", reason
    assert nasty.fate in (EITHER, "refused" if fate == "refused" else "decoded"), found["fate"]
    if fate == "refused":
        assert nasty.reason in reason
        assert len(reason) > 10
    assert found["seconds"] < SECONDS
    assert found["grown"] < (LARGEST if "megapixels" in name or "bomb" in name else SMALL)


def test_a_folder_of_them_is_reported_by_name_and_its_good_images_are_trained_on(
    tmp_path: Path,
) -> None:
    small = {name: nasty for name, nasty in CORPUS.items() if isinstance(nasty.content, bytes)}
    for nasty in small.values():
        (tmp_path / nasty.name).write_bytes(nasty.data)
    for number in (100, 101, 102):
        (tmp_path / f"good-{number}.png").write_bytes(encoded(picture(number), "PNG"))
    with Storage(StorageSettings()) as storage:
        found = load_images(storage, f"file://{tmp_path}", field="spec.x", resolution=94)
    taken = {image.name for image in found.images}
    assert {"good-100.png", "good-101.png", "good-102.png"} <= taken
    refused = {each.name for each in found.rejected}
    assert taken.isdisjoint(refused)
    assert taken | refused == {path.name for path in tmp_path.iterdir()}
    doomed = {name for name, nasty in small.items() if nasty.fate == "refused"}
    assert doomed <= refused
    lines = found.report("spec.x").splitlines()
    assert all(any(line.startswith(f"  {name}: ") for line in lines) for name in doomed)


def test_a_name_cannot_break_the_report() -> None:
    assert (
        str(RejectedImage("a\nspec: fine\x1b[2J.png", "why")) == "a\\nspec: fine\\x1b[2J.png: why"
    )


SEEDS = [
    encoded(picture(16), "JPEG"),
    encoded(picture(16), "JPEG", progressive=True),
    encoded(picture(16), "PNG"),
    encoded(picture(16), "WEBP"),
    encoded(picture(16), "WEBP", lossless=True),
    encoded(picture(16), "TIFF"),
    encoded(picture(16), "TIFF", compression="tiff_lzw"),
    encoded(picture(16), "TIFF", compression="jpeg"),
    encoded(picture(16), "GIF"),
    encoded(picture(16), "BMP"),
    encoded(picture(16), "AVIF"),
    encoded(picture(64), "HEIF"),
    *(nasty.data for nasty in CORPUS.values() if "exif" in nasty.name or "icc" in nasty.name),
    *(nasty.data for nasty in CORPUS.values() if "palette" in nasty.name or "gain" in nasty.name),
]
NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    """A good file with up to eight changes; a PNG's checksums may be put right again."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 8))):
        place = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["byte", "number", "cut", "copy", "insert"])):
            case "byte":
                data[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
            case "number":
                form = draw(st.sampled_from(["<I", ">I", "<H", ">H"]))
                number = draw(st.sampled_from(NUMBERS)) % 256 ** struct.calcsize(form)
                data[place : place + struct.calcsize(form)] = struct.pack(form, number)
            case "cut":
                del data[place : place + draw(st.integers(1, 200))]
            case "copy":
                length = draw(st.integers(1, 200))
                data[place:place] = data[place : place + length] * draw(st.integers(1, 20))
            case "insert":
                data[place:place] = draw(st.binary(max_size=40))
    return _with_right_checksums(bytes(data)) if draw(st.booleans()) else bytes(data)


def _with_right_checksums(data: bytes) -> bytes:
    """So that what was changed in a PNG is read, and not refused at once."""
    if not data.startswith(SIGNATURE):
        return data
    chunks, place = [SIGNATURE], len(SIGNATURE)
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4])
        body = data[place + 8 : place + 8 + length]
        chunks.append(chunk(data[place + 4 : place + 8], body))
        place += 12 + length
    return b"".join(chunks)


def fuzzed(examples: int, seed: int) -> Callable[[Callable[..., None]], Callable[[], None]]:
    def decorate(test: Callable[..., None]) -> Callable[[], None]:
        bounded = settings(
            max_examples=examples,
            deadline=None,
            derandomize=seed == 0,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        return bounded(given(data=damaged_files())(test))  # type: ignore[no-any-return]

    return decorate


@fuzzed(1000, 0)
def test_a_damaged_file_is_decoded_or_refused_in_words(data: bytes) -> None:
    decode_or_refuse(data)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@fuzzed(10_000, 1)
def test_many_damaged_files(data: bytes) -> None:
    decode_or_refuse(data)


def decode_or_refuse(data: bytes) -> None:
    try:
        image = decode(data, max_pixels=1_000_000)
    except UnreadableImageError:
        return
    assert image.mode == "RGB"
    assert image.width * image.height <= 1_000_000
