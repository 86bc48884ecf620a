"""The page of the server in a real browser: a click, a stream, two results side by side."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.report.chromium import Page, browser
from tests.trainer.serving.server import Serving, serving, write_run

TOKEN = "secret"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, random_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("results")
    for name, seed in (("whole", None), ("cup", 2), ("mug", 1)):
        run = write_run(folder, random_model, name, "uid", seed=seed)
        (run / "samples").mkdir()
        Image.new("RGB", (64, 64), "teal").save(run / "samples" / "before-after.png")
        time.sleep(0.02)
    return folder


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Serving]:
    with serving(root) as running:
        yield running


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


def wait(page: Page, expression: str, found: Callable[[object], bool], seconds: int = 40) -> object:
    """The value of an expression, once it is as it should be."""
    until = time.monotonic() + seconds
    while not found(value := page.evaluate(expression)):
        assert time.monotonic() < until, value
        time.sleep(0.1)
    return value


STATUS = "document.getElementById('status').textContent"


@pytest.mark.parametrize("width", [360, 1280])
def test_images_of_two_results_are_streamed_side_by_side(
    page: Page, server: Serving, tmp_path: Path, width: int
) -> None:
    page.open(server.url, width=width)
    wait(page, STATUS, lambda text: text == "3 results")
    assert page.evaluate("document.getElementById('prompt').value") == "a photo of sks mug"
    page.evaluate(
        "for (const [id, value] of Object.entries({model: 'mug', other: 'cup', seed: 5, n: 2,"
        " steps: 6})) document.getElementById(id).value = value;"
        "new MutationObserver(() => {"
        " window.captions = (window.captions || '') + document.querySelector('#output').innerText"
        "}).observe(document.getElementById('output'), {childList: true, subtree: true});"
        "document.getElementById('go').click()"
    )
    wait(page, STATUS, lambda text: str(text).startswith("Done in"))
    # It was seen while it was made.
    assert "1 of 8" in str(page.evaluate("window.captions"))
    loaded = "[...document.querySelectorAll('#output img')].map(each => each.naturalWidth)"
    assert page.evaluate(loaded) == [64] * 4
    pictures = "document.querySelectorAll('#results img').length"
    wait(page, pictures, lambda count: count == 3)
    names = page.names("image")
    assert "a photo of sks mug, cup, seed 6" in names
    assert "mug before and after training" in names
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.complaints() == []
    assert all(url.startswith((server.url, "blob:")) for url in page.requests())
    page.screenshot(tmp_path / "page.png")
    # The address repeats it.
    address = str(page.evaluate("location.href"))
    assert "seed=5" in address
    page.open("about:blank")
    page.open(address, width=width)
    wait(page, STATUS, lambda text: text == "3 results")
    assert page.evaluate("document.getElementById('other').value") == "cup"


def test_a_result_is_compared_with_its_base_model(page: Page, server: Serving) -> None:
    page.open(server.url)
    wait(page, STATUS, lambda text: text == "3 results")
    other, model = (f"document.getElementById('{each}')" for each in ("other", "model"))
    assert page.evaluate(f"{other}.value") == ""
    # A whole model has no adapters that could be left out.
    change = "dispatchEvent(new Event('change'))"
    page.evaluate(f"{other}.value = '@base'; {model}.value = 'whole'; {model}.{change}")
    assert page.evaluate(f"{other}.value") == ""
    page.evaluate(f"{model}.value = 'mug'; {model}.{change}")
    page.evaluate(
        "for (const [id, value] of Object.entries({other: '@base', seed: 5, n: 1, steps: 3}))"
        " document.getElementById(id).value = value;"
        "document.getElementById('go').click()"
    )
    wait(page, STATUS, lambda text: str(text).startswith("Done in"))
    names = page.names("image")
    assert "a photo of sks mug, base model of mug, seed 5" in names
    sources = "new Set([...document.querySelectorAll('#output img')].map(each => each.src)).size"
    assert page.evaluate(sources) == 2


def test_a_token_is_asked_for_and_errors_are_shown(page: Page, root: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(TOKEN)
    with serving(root, tokens_file=str(tmp_path / "tokens")) as guarded:
        page.open(guarded.url)
        wait(page, STATUS, lambda text: text == "a valid token is needed")
        page.evaluate(
            f"document.getElementById('token').value = '{TOKEN}';"
            "document.querySelector('#access button').click()"
        )
        wait(page, STATUS, lambda text: text == "3 results")
        assert page.evaluate("document.getElementById('access').hidden")
        page.evaluate(
            "document.getElementById('size').value = '70x70';document.getElementById('go').click()"
        )
        text = wait(page, STATUS, lambda text: "70" in str(text))
        assert "width 70: must be a multiple of 4" in str(text)
