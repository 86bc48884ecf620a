"""Line charts as inline SVG; colors and fonts come from the page's style sheet."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 320, 190
LEFT, RIGHT, TOP, BOTTOM = 42, 8, 14, 26
"""Margins around the plot, in the units of the view box."""
OUTLIERS = 0.01
"""Share of the raw values at each end that may be cut off, so that one spike hides nothing."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Args:
        label: For people who cannot see it.
        points: Steps and values.
        raw: The same before smoothing, drawn faintly.
        dots: Mark each point.
        intervals: Low and high of points, by step.
        second: Use the second color.
    """

    label: str
    points: Sequence[Point]
    raw: Sequence[Point] = ()
    dots: bool = False
    intervals: Sequence[tuple[float, float, float]] = ()
    second: bool = False


@dataclass(frozen=True)
class Level:
    """A horizontal line with its label."""

    label: str
    value: float


@dataclass(frozen=True)
class Axes:
    """The ranges of both axes and where they lie in the view box."""

    left: float
    right: float
    low: float
    high: float

    def x(self, step: float) -> float:
        """Horizontal position of a step."""
        return LEFT + (step - self.left) / (self.right - self.left) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Vertical position of a value; one outside is at the edge."""
        value = min(max(value, self.low), self.high)
        return TOP + (self.high - value) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    show: Callable[[float], str],
    level: Level | None = None,
    chosen: int | None = None,
    name: str,
) -> Markup:
    """A chart over the optimizer steps.

    Args:
        title: What it shows; read out with the lines' first and last values.
        lines: At least one point in all.
        show: Text of a value.
        level: A value to compare with.
        chosen: Step to mark.
        name: Prefix of the ids in the chart, unique on the page.
    """
    axes = _axes(lines, level)
    parts = [
        *_grid(axes, show),
        *_level(axes, level),
        *_chosen(axes, chosen),
        *(part for line in lines for part in _line(axes, line)),
    ]
    return Markup(
        '<svg class="chart" viewBox="0 0 {width} {height}" role="img"'
        ' aria-labelledby="{name}-title {name}-text"><title id="{name}-title">{title}</title>'
        '<desc id="{name}-text">{text}</desc>{parts}</svg>'
    ).format(
        width=WIDTH,
        height=HEIGHT,
        name=name,
        title=title,
        text=describe(lines, show, level),
        parts=Markup("").join(parts),
    )


def describe(
    lines: Sequence[Line], show: Callable[[float], str], level: Level | None = None
) -> str:
    """The chart in words."""
    sentences = [
        f"{line.label}: {show(line.points[0][1])} at step {line.points[0][0]:.0f},"
        f" {show(line.points[-1][1])} at step {line.points[-1][0]:.0f}."
        for line in lines
        if line.points
    ]
    if level:
        sentences.append(f"{level.label}: {show(level.value)}.")
    return " ".join(sentences)


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers between two others."""
    exact = (high - low) / max(1, count - 1)
    power = 10.0 ** math.floor(math.log10(exact))
    distance = next(step for step in (1, 2, 2.5, 5, 10) if step * power >= exact * 0.999) * power
    first = math.ceil(low / distance - 1e-9)
    last = math.floor(high / distance + 1e-9)
    return [i * distance for i in range(first, last + 1)]


def _axes(lines: Sequence[Line], level: Level | None) -> Axes:
    steps = [x for line in lines for x, _ in (*line.points, *line.raw)]
    values = [y for line in lines for _, y in line.points]
    values += [bound for line in lines for _, *bounds in line.intervals for bound in bounds]
    values += [level.value] if level else []
    raw = sorted(y for line in lines for _, y in line.raw)
    cut = int(len(raw) * OUTLIERS)
    values += raw[cut : len(raw) - cut]
    left, right = min(steps), max(steps)
    if left < 0.05 * right:
        left = 0
    low, high = min(values), max(values)
    # Losses and times begin at 0 where that costs little room.
    if 0 <= low < 0.4 * high:
        low = 0
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1
    return Axes(
        left, right if right > left else left + 1, low if low == 0 else low - room, high + room
    )


def _grid(axes: Axes, show: Callable[[float], str]) -> Iterable[Markup]:
    values = ticks(axes.low, axes.high, 4)
    for value, label in zip(values, _labels(values, show), strict=True):
        y = axes.y(value)
        yield Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(LEFT, y, WIDTH - RIGHT)
        yield _text(LEFT - 7, y + 4, label, "end")
    for step in ticks(axes.left, axes.right, 5):
        if step == int(step):
            x = axes.x(step)
            # The last label would be cut off if it were centered on the edge.
            anchor = "end" if x > WIDTH - RIGHT - 14 else "middle"
            yield _text(min(x, WIDTH - RIGHT), HEIGHT - 8, f"{step:,.0f}", anchor)


def _labels(values: Sequence[float], show: Callable[[float], str]) -> list[str]:
    """Texts of an axis; with more digits where values that are close would have the same."""
    labels = [show(value) for value in values]
    return labels if len(set(labels)) == len(labels) else [f"{value:.6g}" for value in values]


def _level(axes: Axes, level: Level | None) -> Iterable[Markup]:
    if level:
        y = axes.y(level.value)
        yield Markup('<path class="level" d="M{} {:.1f}H{}"/>').format(LEFT, y, WIDTH - RIGHT)
        yield _text(WIDTH - RIGHT, y - 5, level.label, "end")


def _chosen(axes: Axes, step: int | None) -> Iterable[Markup]:
    if step is not None and axes.left <= step <= axes.right:
        x = axes.x(step)
        yield Markup('<path class="chosen" d="M{:.1f} {}V{}"/>').format(x, TOP, HEIGHT - BOTTOM)


def _line(axes: Axes, line: Line) -> Iterable[Markup]:
    color = " second" if line.second else ""
    if line.intervals:
        lower = [(step, low) for step, low, _ in line.intervals]
        upper = [(step, high) for step, _, high in reversed(line.intervals)]
        yield Markup('<path class="band{}" d="{}Z"/>').format(color, _path(axes, [*lower, *upper]))
        for step, low, high in line.intervals:
            bar = _path(axes, [(step, low), (step, high)])
            yield Markup('<path class="interval{}" d="{}"/>').format(color, bar)
    if line.raw:
        yield Markup('<path class="raw{}" d="{}"/>').format(color, _path(axes, line.raw))
    yield Markup('<path class="line{}" d="{}"/>').format(color, _path(axes, line.points))
    # A line of one point is invisible.
    if line.dots or len(line.points) == 1:
        for step, value in line.points:
            yield Markup('<circle class="dot{}" cx="{:.1f}" cy="{:.1f}" r="3.5"/>').format(
                color, axes.x(step), axes.y(value)
            )


def _path(axes: Axes, points: Sequence[Point]) -> str:
    return "M" + "L".join(f"{axes.x(x):.1f} {axes.y(y):.1f}" for x, y in points)


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        x, y, anchor, escape(text)
    )
