"""The page in a real browser: nothing is loaded, nothing complains, everything has a name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from tests.report.chromium import Page, browser
from tests.report.runs import PROMPTS, write_run
from tests.report.test_page import HOSTILE, build

SHOWN = "[...document.querySelectorAll('figure[data-step]')].filter(each => !each.hidden)"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    path = folder / "report.html"
    path.write_text(build(write_run(folder)))
    return path


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_the_screen_loads_nothing_and_complains_of_nothing(
    page: Page, report: Path, tmp_path: Path, width: int, dark: bool
) -> None:
    page.open(report, width=width, dark=dark)
    assert page.requests() == [report.as_uri()]
    assert page.complaints() == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.screenshot(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as shot:
        corner = shot.convert("RGB").getpixel((2, 2))
    assert isinstance(corner, tuple)
    assert (max(corner) < 60) if dark else (min(corner) > 200)


def test_pictures_controls_and_headings_have_names(page: Page, report: Path) -> None:
    page.open(report)
    for role in ("image", "slider", "link", "heading", "DisclosureTriangle", "navigation"):
        names = page.names(role)
        assert names, role
        assert all(name.strip() for name in names), role
    assert page.names("slider") == ["Checkpoint"]
    pictures = page.names("image")
    assert "a photo of sks mug, Step 800, seed 42" in pictures
    assert any(name.startswith("Loss over steps") for name in pictures)
    level = "[...document.querySelectorAll('h1,h2,h3,h4')].map(each => +each.tagName[1])"
    levels = page.evaluate(level)
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_subjects_keep_their_distance_and_texts_their_direction(page: Page, tmp_path: Path) -> None:
    root = write_run(tmp_path, prompts=("صورة sks mug على الشاطئ",), steps=(0, 8), seeds=1)
    record = tmp_path / "run/run.json"
    made = json.loads(record.read_text())
    first = made["job"]["spec"]["subjects"][0]
    made["job"]["spec"]["subjects"].append(first | {"identifier": "zwx", "classNoun": "cup"})
    record.write_text(json.dumps(made))
    path = tmp_path / "report.html"
    path.write_text(build(root))
    page.open(path)
    assert (
        page.evaluate("""(() => {
        const [, second] = document.querySelectorAll("#subject h2")
        const above = second.previousElementSibling.getBoundingClientRect()
        return second.getBoundingClientRect().top - above.bottom
    })()""")
        >= 48
    )  # pixels
    assert (
        page.evaluate("getComputedStyle(document.querySelector('.prompt bdi')).direction") == "rtl"
    )


def test_the_slider_shows_one_checkpoint_at_a_time(page: Page, report: Path) -> None:
    page.open(report)
    assert page.evaluate(f"{SHOWN}.map(each => each.dataset.step)") == ["800"] * len(PROMPTS)
    assert page.evaluate("document.querySelector('output').textContent") == "Step 800, exported"
    page.evaluate(
        "(() => { const range = document.querySelector('input[type=range]'); range.value = 1;"
        " range.dispatchEvent(new Event('input')); })()"
    )
    assert page.evaluate(f"{SHOWN}.map(each => each.dataset.step)") == ["400"] * len(PROMPTS)
    assert page.evaluate("document.querySelector('output').textContent") == "Step 400"
    assert page.evaluate("document.querySelector('input').ariaValueText") == "Step 400"


def test_without_scripts_all_checkpoints_are_listed(page: Page, report: Path) -> None:
    page.open(report, script=False)
    assert page.names("slider") == []
    pictures = page.names("image")
    for step in (200, 400, 600, 800):
        assert f"a photo of sks mug, Step {step}, seed 42" in pictures


def test_hostile_texts_do_nothing(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    root = write_run(tmp_path, prompts=(HOSTILE, f"javascript:{HOSTILE}"), card=HOSTILE)
    path.write_text(build(root))
    page.open(path)
    assert page.requests() == [path.as_uri()]
    assert page.complaints() == []
    assert page.evaluate("document.scripts.length") == 1
