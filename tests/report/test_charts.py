"""Charts: round ticks, everything inside of the plot, and a text for people who cannot see them."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from dreambooth_report.charts import HEIGHT, WIDTH, Level, Line, describe, line_chart, ticks


@pytest.mark.parametrize(
    ("low", "high", "count", "expected"),
    [
        (0, 800, 5, [0, 200, 400, 600, 800]),
        (0, 1, 4, [0, 0.5, 1]),
        (0.012, 0.094, 4, [0.05]),
        (-0.02, 0.06, 4, [0, 0.05]),
        (9e-5, 1.1e-4, 4, [9e-5, 1e-4, 1.1e-4]),
        (1e6, 3e6, 5, [1e6, 1.5e6, 2e6, 2.5e6, 3e6]),
    ],
)
def test_ticks_are_round_numbers(
    low: float, high: float, count: int, expected: list[float]
) -> None:
    assert ticks(low, high, count) == pytest.approx(expected)


def chart(*lines: Line, level: Level | None = None, chosen: int | None = None) -> str:
    return line_chart(
        "Loss", lines, show=lambda value: f"{value:.2f}", level=level, chosen=chosen, name="loss"
    )


@pytest.mark.parametrize(
    "line",
    [
        Line("one point", [(1, 0.5)]),
        Line("constant", [(1, 0.0), (2, 0.0)]),
        Line("negative", [(0, -3.0), (10, -1.0)], intervals=[(0, -4, -2), (10, -2, 0)]),
        Line("spike", [(0, 1.0), (9, 1.0)], raw=[(i, 1e6 if i == 5 else 1.0) for i in range(10)]),
        Line("tiny", [(0, 1e-12), (100_000, 3e-12)], dots=True),
    ],
    ids=lambda line: line.label,
)
def test_charts_are_well_formed_and_stay_inside_their_box(line: Line) -> None:
    svg = chart(line, level=Level("real photos", 0.9), chosen=1)
    root = ElementTree.fromstring(svg)
    numbers = [
        tuple(map(float, pair.split(" ")))
        for path in root.iter("path")
        if "grid" not in path.get("class", "")
        for pair in re.findall(r"-?[\d.]+ -?[\d.]+", path.get("d", ""))
    ]
    assert numbers
    assert all(math.isfinite(x) and 0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in numbers)


def test_ticks_that_are_close_have_different_labels() -> None:
    svg = chart(Line("variety", [(0, 0.0605), (4, 0.0695)]))
    labels = re.findall(r'text-anchor="end">([^<]+)<', svg)
    assert [label for label in labels if "." in label] == ["0.06", "0.065", "0.07"]


def test_one_spike_does_not_flatten_the_rest() -> None:
    raw = [(i, 5000.0 if i == 500 else 1 + i / 1000) for i in range(1000)]
    svg = chart(Line("Loss", [(0, 1.0), (999, 2.0)], raw=raw))
    (path,) = re.findall(r'class="line" d="([^"]+)"', svg)
    (_, first), (_, last) = [tuple(map(float, each.split(" "))) for each in path[1:].split("L")]
    assert abs(first - last) > HEIGHT / 4


def test_a_chart_says_in_words_what_it_shows() -> None:
    line = Line("Subject loss", [(1, 0.5), (800, 0.1)])
    text = describe([line], lambda value: f"{value:.1f}", Level("real photos", 0.3))
    assert text == "Subject loss: 0.5 at step 1, 0.1 at step 800. real photos: 0.3."
    assert "Subject loss: 0.50 at step 1, 0.10 at step 800." in chart(line)


def test_texts_are_escaped() -> None:
    svg = line_chart(
        "<script>alert(1)</script>",
        [Line('"><img src=x>', [(0, 1.0), (1, 2.0)])],
        show=lambda _: "<b>",
        level=Level("</svg>", 1.0),
        name="hostile",
    )
    root = ElementTree.fromstring(svg)
    assert {each.tag for each in root.iter()} <= {"svg", "title", "desc", "path", "text", "circle"}
