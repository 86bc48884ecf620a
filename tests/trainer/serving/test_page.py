"""The page of the server in a real browser: a click, a stream, two results side by side."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
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
        (run / "report.html").write_text("<h1>A report</h1>")
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


def fill(page: Page, **fields: object) -> None:
    """Set fields as a user does, and begin."""
    page.evaluate(
        f"for (const [id, value] of Object.entries({json.dumps(fields)})) {{"
        " const field = document.getElementById(id);"
        " field.value = value; field.dispatchEvent(new Event('change')) }"
        "document.getElementById('go').click()"
    )


SOURCES = "[...document.querySelectorAll('#output img')].map(each => each.src)"


@pytest.mark.parametrize("width", [360, 1280])
def test_a_link_holds_two_weights_of_one_result(
    page: Page, server: Serving, tmp_path: Path, width: int
) -> None:
    page.open(server.url, width=width)
    wait(page, STATUS, lambda text: text == "3 results")
    fill(page, model="mug", adapter_weight=0.5, other="mug", other_weight=2, seed=7, n=2, steps=3)
    wait(page, STATUS, lambda text: str(text).startswith("Done in"))
    heads = "[...document.querySelectorAll('#output h3')].map(each => each.textContent)"
    assert page.evaluate(heads) == ["mug, weight 0.5", "mug, weight 2"]
    made = page.evaluate(SOURCES)
    assert len(set(made)) == 4
    # The two of a seed stand beside each other, also on a phone.
    places = (
        "[...document.querySelectorAll('#output .pictures')].map("
        "each => [...each.children].map(child => Math.round(child.getBoundingClientRect().top)))"
    )
    left, right = page.evaluate(places)
    assert left == right
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.screenshot(tmp_path / "sides.png")
    address = str(page.evaluate("location.href"))
    page.open("about:blank")
    page.open(address, width=width)
    wait(page, STATUS, lambda text: text == "3 results")
    page.evaluate("document.getElementById('go').click()")
    wait(page, STATUS, lambda text: str(text).startswith("Done in"))
    assert page.evaluate(SOURCES) == made


def test_a_whole_model_has_no_weight(page: Page, server: Serving) -> None:
    page.open(server.url)
    wait(page, STATUS, lambda text: text == "3 results")
    fill(page, adapter_weight=0.5, model="whole", other="mug", other_weight=0.5, n=1, steps=1)
    wait(page, STATUS, lambda text: str(text).startswith("Done in"))
    names = page.names("heading")
    assert {"whole", "mug, weight 0.5"} <= set(names)
    assert page.evaluate("document.getElementById('adapter_weight').disabled")
    assert page.evaluate("document.getElementById('adapter_weight').placeholder") == "no adapters"
    hint = "document.getElementById('{}').placeholder"
    hints = [page.evaluate(hint.format(each)) for each in ("steps", "guidance_scale", "size")]
    assert hints == ["4", "2", "64x64"]


def test_enter_begins_and_line_breaks_of_a_prompt_are_spaces(page: Page, server: Serving) -> None:
    page.open(server.url)
    wait(page, STATUS, lambda text: text == "3 results")
    prompt = "a photo of\\n sks mug" + " on a table" * 8
    page.evaluate(
        "document.getElementById('steps').value = 1; document.getElementById('n').value = 1;"
        "document.getElementById('size').value = '64x128';"
        f"const box = document.getElementById('prompt'); box.value = '{prompt}';"
        "box.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', cancelable: true}))"
    )
    wait(page, STATUS, lambda text: str(text).startswith("Done in"))
    texts = "[...document.querySelectorAll('.run > p')].map(each => each.textContent)"
    said, warning, unusual = page.evaluate(texts)
    assert said == "a photo of sks mug" + " on a table" * 8
    assert "the model reads the first 77; shorten it" in warning
    assert "size: 64x128 is far from 64x64" in unusual


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
    fill(page, other="@base", seed=5, n=1, steps=3)
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
        assert "width 70: must be a multiple of 8" in str(text)
        # Nothing was made, so nothing stays of it.
        assert page.evaluate("document.getElementById('output').children.length") == 0
        report = "document.querySelector('article a')"
        page.evaluate(f"{report}.click()")
        wait(page, f"{report}.download", lambda name: name == "mug-report.html")
        assert str(page.evaluate(f"{report}.href")).startswith("blob:")
        url = f"{guarded.url}/results/mug/files/report.html"
        assert httpx.get(url).status_code == 401
        answer = httpx.get(url, headers={"Authorization": f"Bearer {TOKEN}"})
        assert answer.text == "<h1>A report</h1>"
        assert answer.headers["content-security-policy"] == "sandbox allow-scripts"
