"""The terminal while a job runs: a live view, or plain lines."""

import time

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from dreambooth_api.contract.progress import Progress
from dreambooth_api.contract.times import human_duration
from dreambooth_operator.local.screen import Screen

# A log is kept: a line for each step would bury the rest.
PLAIN_SECONDS = 5.0
"""Shortest time between two lines about the same stage."""
REDRAW_SECONDS = 0.2
BAR_WIDTH = 40


def screen_for(console: Console) -> Screen:
    """A view that is redrawn in place on a terminal; lines anywhere else, such as in a log."""
    return LiveScreen(console) if console.is_terminal else PlainScreen(console)


class PlainScreen:
    """Prints a line at each change of stage, and one every few seconds of progress."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage = ""
        self._last_line = ""
        self._warnings: list[str] = []
        self._next = 0.0

    def print_line(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def attempt_started(self, attempt: int) -> None:
        """Print the attempt's number."""
        self._stage = ""
        self.print_line(f"attempt {attempt}: starting")

    def update(self, progress: Progress | None, problem: str | None, stopping: bool) -> None:
        """Print what has changed, within a stage at most every `PLAIN_SECONDS` seconds."""
        shown, self._warnings = self._warnings, warnings(progress, problem)
        for warning in self._warnings:
            if warning not in shown:
                self.print_line(warning)
        stage = stage_name(progress, stopping)
        line = "  ".join([stage, *figures(progress)])
        due = stage != self._stage or time.monotonic() >= self._next
        if line == self._last_line or not due:
            return
        self._stage, self._last_line = stage, line
        self._next = time.monotonic() + PLAIN_SECONDS
        self.print_line(line)

    def close(self) -> None:
        """Do nothing: lines need no cleaning up."""


class LiveScreen:
    """Redraws stage, progress bar and figures in place."""

    def __init__(self, console: Console) -> None:
        # No refresh thread of rich's own: `update` is called many times a second.
        # transient: the view is removed at the end, when the report takes its place.
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._live.start()
        self._attempt = 0
        self._next = 0.0

    def print_line(self, text: str) -> None:
        """Print a line above the view."""
        self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def attempt_started(self, attempt: int) -> None:
        """Show the attempt's number from now on."""
        self._attempt = attempt

    def update(self, progress: Progress | None, problem: str | None, stopping: bool) -> None:
        """Redraw, at most every `REDRAW_SECONDS` seconds."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + REDRAW_SECONDS
        self._live.update(self._view(progress, problem, stopping), refresh=True)

    def close(self) -> None:
        """Remove the view."""
        self._live.stop()

    def _view(self, progress: Progress | None, problem: str | None, stopping: bool) -> Group:
        title = Text(stage_name(progress, stopping), style="bold")
        if self._attempt:
            title.append(f"  attempt {self._attempt}", style="dim")
        done, total = stage_progress(progress)
        bar = ProgressBar(total=total, completed=done, width=BAR_WIDTH, pulse=not total)
        warned = (Text(warning, style="yellow") for warning in warnings(progress, problem))
        return Group(title, bar, Text("  ".join(figures(progress)), style="cyan"), *warned)


def stage_name(progress: Progress | None, stopping: bool) -> str:
    """The stage as the user sees it."""
    if stopping:
        return "Stopping: saving a checkpoint (Ctrl-C again stops without saving)"
    return progress.stage if progress else "Starting"


def stage_progress(progress: Progress | None) -> tuple[int, int | None]:
    """(done, total) optimizer steps or class images of the stage; the total may be unknown."""
    if progress is None or progress.stage == "Preparing":
        return 0, None
    if progress.stage == "GeneratingPrior":
        return (progress.prior.done, progress.prior.total) if progress.prior else (0, None)
    return progress.step, progress.total_steps


def figures(progress: Progress | None) -> list[str]:
    """The figures that are known, with their units."""
    done, total = stage_progress(progress)
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
        known.append(f"{human_duration(progress.eta_seconds)} left")
    return known


def warnings(progress: Progress | None, problem: str | None) -> list[str]:
    """What the user should know while training goes on.

    An answer that could not be read, what the trainer's checks found, and a failed save.
    """
    texts = [f"progress unknown: {problem}"] if problem else []
    texts += progress.warnings if progress else []
    if progress and progress.save_problem:
        failed = f"checkpoint not saved ({progress.failed_saves} failed so far)"
        texts.append(f"{failed}: {progress.save_problem}")
    return texts
