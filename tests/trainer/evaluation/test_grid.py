"""Sheets show every image in its place, below a label that can be read."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dreambooth_trainer.evaluation import fonts
from dreambooth_trainer.evaluation.grid import before_after, grid

RED, GREEN, BLUE, GREY = (250, 0, 0), (0, 250, 0), (0, 0, 250), (128, 128, 128)


def tile(colour: tuple[int, int, int], width: int = 64, height: int = 64) -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def places(sheet: Image.Image, colour: tuple[int, int, int]) -> tuple[slice, slice]:
    """Rows and columns of the rectangle of one colour."""
    found = (np.asarray(sheet) == colour).all(-1)
    rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
    assert rows.size, f"{colour} is not on the sheet"
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def ink(sheet: Image.Image, rows: slice) -> int:
    """Dark pixels in some rows: text."""
    return int((np.asarray(sheet.convert("L"))[rows] < 100).sum())


def length(part: slice) -> int:
    return part.stop - part.start


def test_rows_and_columns_are_in_order_below_their_labels() -> None:
    sheet = grid([[tile(RED), tile(GREEN)], [tile(BLUE)]], ["first", "second"])
    (red_y, red_x), (green_y, green_x), (blue_y, blue_x) = (
        places(sheet, colour) for colour in (RED, GREEN, BLUE)
    )
    assert red_y == green_y
    assert red_x.stop < green_x.start
    assert red_y.stop < blue_y.start
    assert red_x == blue_x
    white = grid([[tile(RED), tile(GREEN)], [tile(BLUE)]], ["", ""])
    assert ink(sheet, slice(0, red_y.start)) > 20
    assert ink(white, slice(0, places(white, RED)[0].start)) == 0


@pytest.mark.parametrize(("side", "shown"), [(64, 128), (100, 200), (256, 256), (1024, 384)])
def test_small_images_are_enlarged_and_large_ones_reduced(side: int, shown: int) -> None:
    rows, columns = places(grid([[tile(RED, side, side)]], ["label"]), RED)
    assert (length(rows), length(columns)) == (shown, shown)


def test_proportions_are_kept() -> None:
    rows, columns = places(grid([[tile(RED, 256, 128)]], ["label"]), RED)
    assert (length(rows), length(columns)) == (128, 256)


def test_long_rows_are_broken() -> None:
    row = [tile(GREY)] * 8 + [tile(RED)]
    sheet = grid([row], ["label"])
    grey, red = places(sheet, GREY), places(sheet, RED)
    assert red[0].start > grey[0].stop
    assert red[1].start == grey[1].start


@pytest.mark.parametrize("label", ["a long prompt " * 40, "W" * 500, "word", ""])
def test_a_label_of_any_length_stays_on_the_sheet(label: str) -> None:
    sheet = grid([[tile(RED)]], [label])
    assert sheet.width < 400
    pixels = np.asarray(sheet)
    assert (pixels[:, :10] == 255).all()
    assert (pixels[:, -10:] == 255).all()
    top = places(sheet, RED)[0].start
    assert top < 100, "a label takes three lines at most"


@pytest.fixture
def no_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without fonts: a minimal container."""
    monkeypatch.setattr(fonts, "_installed_files", lambda: ())


@pytest.mark.usefixtures("no_fonts")
def test_without_a_font_accents_go_and_letters_are_spelt_as_code_points() -> None:
    plain = grid([[tile(RED)]], ["uber <72AC>"])
    assert grid([[tile(RED)]], ["über 犬"]).tobytes() == plain.tobytes()


@pytest.mark.usefixtures("no_fonts")
def test_prompts_of_a_script_without_a_font_are_told_apart() -> None:
    dog, cat = (grid([[tile(RED)]], [f"一只{animal}"]) for animal in "狗猫")
    assert dog.tobytes() != cat.tobytes()


def test_the_installed_font_that_has_the_letters_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    has_letters: Any = SimpleNamespace(getmask=lambda text: text.encode())
    lacks_them: Any = SimpleNamespace(getmask=lambda text: b"" if text > "z" else text.encode())
    monkeypatch.setattr(fonts, "_installed", lambda size: iter([lacks_them, has_letters]))
    assert fonts.choose_font("собака", 14) is has_letters
    assert fonts.choose_font("a dog", 14) not in (has_letters, lacks_them)


def test_a_damaged_font_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad.ttf").write_bytes(b"no font")
    monkeypatch.setattr(fonts, "_installed_files", lambda: (tmp_path / "bad.ttf",))
    assert grid([[tile(RED)]], ["犬"]).width > 0


def test_before_is_above_after() -> None:
    sheet = before_after([[tile(RED)]], [[tile(GREEN)]], ["a photo of sks mug"])
    red, green = places(sheet, RED), places(sheet, GREEN)
    assert red[0].stop < green[0].start
    assert red[1] == green[1]
    named = np.asarray(sheet.convert("L"))[red[0], : red[1].start] < 180
    assert named.sum() > 20, "the row has no name"


def test_every_row_needs_a_label() -> None:
    with pytest.raises(ValueError, match="shorter"):
        grid([[tile(RED)], [tile(GREEN)]], ["one"])
