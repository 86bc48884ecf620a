"""What the terminal shows while a job runs, and of its scores."""

import time
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dreambooth_operator.local.progress import TrainerProgress

PLAIN_SECONDS = 5.0
"""Shortest time between two lines about the same stage."""
REDRAW_SECONDS = 0.2
BAR_WIDTH = 40


class Screen(Protocol):
    """Where a run reports to."""

    def say(self, text: str) -> None:
        """A line that stays."""

    def attempt_started(self, attempt: int) -> None:
        """A new attempt's pods are about to start."""

    def update(self, progress: TrainerProgress | None, stopping: bool) -> None:
        """Called often with the newest progress, None before the first."""

    def close(self) -> None:
        """Nothing more will change."""


def screen_for(console: Console) -> Screen:
    """A live view on a terminal, lines elsewhere."""
    return LiveScreen(console) if console.is_terminal else PlainScreen(console)


class PlainScreen:
    """A line per change of stage, and one per some seconds of progress."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage = ""
        self._shown: tuple[str, str] = ("", "")
        self._next = 0.0

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def attempt_started(self, attempt: int) -> None:
        """A new attempt's pods are about to start."""
        self._stage = ""
        self.say(f"attempt {attempt}: starting")

    def update(self, progress: TrainerProgress | None, stopping: bool) -> None:
        """Print what changed, but not too often."""
        stage = stage_name(progress, stopping)
        line = (stage, "  ".join(figures(progress)))
        due = stage != self._stage or time.monotonic() >= self._next
        if line == self._shown or not due:
            return
        self._stage, self._shown = stage, line
        self._next = time.monotonic() + PLAIN_SECONDS
        self.say(f"{line[0]}  {line[1]}".rstrip())

    def close(self) -> None:
        """Nothing more will change."""


class LiveScreen:
    """Stage, bar and figures, redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._live.start()
        self._attempt = 0
        self._next = 0.0

    def say(self, text: str) -> None:
        """A line that stays, above the view."""
        self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def attempt_started(self, attempt: int) -> None:
        """A new attempt's pods are about to start."""
        self._attempt = attempt

    def update(self, progress: TrainerProgress | None, stopping: bool) -> None:
        """Redraw, but not too often."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + REDRAW_SECONDS
        self._live.update(self._drawn(progress, stopping), refresh=True)

    def close(self) -> None:
        """Take the view away."""
        self._live.stop()

    def _drawn(self, progress: TrainerProgress | None, stopping: bool) -> Group:
        title = Text(stage_name(progress, stopping), style="bold")
        if self._attempt:
            title.append(f"  attempt {self._attempt}", style="dim")
        done, total = steps(progress)
        bar = ProgressBar(total=total, completed=done, width=BAR_WIDTH, pulse=not total)
        return Group(title, bar, Text("  ".join(figures(progress)), style="cyan"))


def stage_name(progress: TrainerProgress | None, stopping: bool) -> str:
    """What the job does now."""
    if stopping:
        return "Stopping (saving a checkpoint; once more to stop at once)"
    return progress.stage if progress else "Starting"


def steps(progress: TrainerProgress | None) -> tuple[int, int | None]:
    """Done and total of the stage; a total of None when nobody knows."""
    if progress is None or progress.stage == "Preparing":
        return 0, None
    if progress.stage == "GeneratingPrior":
        return (progress.prior.done, progress.prior.total) if progress.prior else (0, None)
    return progress.step, progress.total_steps


def figures(progress: TrainerProgress | None) -> list[str]:
    """The figures that are known, in words and units."""
    done, total = steps(progress)
    if progress is None or total is None:
        return []
    if progress.stage == "GeneratingPrior":
        return [f"class image {done}/{total}"]
    known = [f"step {done}/{total}"]
    if progress.loss is not None:
        known.append(f"loss {progress.loss:.4f}")
    if progress.images_per_second is not None:
        known.append(f"{progress.images_per_second:.1f} images/s")
    if progress.stage == "Training" and progress.eta_seconds is not None:
        known.append(f"{duration(progress.eta_seconds)} left")
    return known


def duration(seconds: float) -> str:
    """Rounded for people: 45s, 3m20s, 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def score_table(entry: dict[str, Any]) -> Table:
    """Scores of one subject before and after training, from scores.json."""
    subject, noun = f"{entry['identifier']} {entry['classNoun']}", entry["classNoun"]
    rows = [
        ("subject similarity", f"{subject} ~ real images", "subjectSimilarity"),
        ("prompt similarity", f"{subject} ~ its prompt", "promptSimilarity"),
        ("class similarity", f"any {noun} ~ real images", "classSimilarity"),
        ("class diversity", f"among any {noun}", "classDiversity"),
        ("subject diversity", f"among {subject}", "subjectDiversity"),
    ]
    table = Table("score", "of", *(_right(name) for name in ("before", "after", "real images")))
    for name, what, key in rows:
        values = entry.get(key, {})
        table.add_row(name, what, *(_score(values.get(k)) for k in ("before", "after", "real")))
    return table


def _right(name: str) -> Any:
    from rich.table import Column

    return Column(name, justify="right")


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
