"""The terminal while a job runs: a live view, or plain lines."""

import time
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from dreambooth_api.contract.progress import Progress
from dreambooth_operator.local.screen import Screen

# A log is kept: a line for each step would bury the rest.
PLAIN_SECONDS = 5.0
"""Shortest time between two lines about the same stage."""
REDRAW_SECONDS = 0.2
BAR_WIDTH = 40
BEFORE_TRAINING = ("Preparing", "Captioning", "GeneratingPrior")
"""Stages in which there is nothing to save yet."""


def screen_for(console: Console, printed: Sequence[str] = ()) -> Screen:
    """A view that is redrawn in place on a terminal; lines anywhere else, such as in a log.

    `printed` are warnings that the user has seen already.
    """
    notices = Notices(printed)
    return LiveScreen(console, notices) if console.is_terminal else PlainScreen(console, notices)


class Notices:
    """Lines that stay on the terminal: the trainer's warnings and notes, and where it resumes.

    Each is printed once, though every attempt repeats the checks. `printed` are warnings of the job
    itself, which the user sees before it starts.
    """

    def __init__(self, printed: Sequence[str]) -> None:
        self._printed = {f"warning: {each}" for each in printed}

    def take(self, progress: Progress | None) -> list[str]:
        """The lines to print now; they are not returned again."""
        if progress is None:
            return []
        lines = [f"warning: {each}" for each in progress.warnings]
        lines += [f"warning: {progress.save_warning}"] if progress.save_warning else []
        lines += [f"note: {each}" for each in progress.notes]
        if progress.resumed_from is not None:
            lines.append(
                f"attempt {progress.attempt}: resumed from the checkpoint of step"
                f" {progress.resumed_from}"
            )
        new = [line for line in lines if line not in self._printed]
        self._printed.update(new)
        return new


class PlainScreen:
    """Prints a line at each change of stage, and one every few seconds of progress."""

    def __init__(self, console: Console, notices: Notices) -> None:
        self._console = console
        self._notices = notices
        self._stage = ""
        self._last_line = ""
        self._problems: list[str] = []
        self._next = 0.0

    def print_line(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def attempt_started(self, attempt: int) -> None:
        """Print the attempt's number."""
        # What `update` would print until the first answer.
        self._stage = self._last_line = stage_name(None, stopping=False)
        self.print_line(f"attempt {attempt}: starting")

    def update(self, progress: Progress | None, problem: str | None, stopping: bool) -> None:
        """Print what has changed, within a stage at most every `PLAIN_SECONDS` seconds."""
        for line in self._notices.take(progress):
            self.print_line(line)
        shown, self._problems = self._problems, problems(progress, problem)
        for text in self._problems:
            if text not in shown:
                self.print_line(text)
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

    def __init__(self, console: Console, notices: Notices) -> None:
        self._notices = notices
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
        # Above the view, which is gone at the end.
        for line in self._notices.take(progress):
            self.print_line(line)
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
        done, total = progress.stage_progress if progress else (0, None)
        bar = ProgressBar(total=total, completed=done, width=BAR_WIDTH, pulse=not total)
        warned = (Text(warning, style="yellow") for warning in problems(progress, problem))
        return Group(title, bar, Text("  ".join(figures(progress)), style="cyan"), *warned)


def stage_name(progress: Progress | None, stopping: bool) -> str:
    """The stage as the user sees it."""
    if stopping:
        saves = progress and progress.stage not in BEFORE_TRAINING and not progress.trains_nothing
        return (
            "Stopping: saving a checkpoint (Ctrl-C again stops without saving)"
            if saves
            else "Stopping (Ctrl-C again stops at once)"
        )
    if progress is None:
        return "Starting"
    # What trains nothing has no stage of a job.
    return "Generating" if progress.generated else progress.stage


def figures(progress: Progress | None) -> list[str]:
    """The figures that are known, with their units."""
    return progress.figures() if progress else []


def problems(progress: Progress | None, problem: str | None) -> list[str]:
    """What goes wrong now: an answer that could not be read, and a failed save."""
    texts = [f"progress unknown: {problem}"] if problem else []
    if progress and progress.save_problem:
        failed = f"checkpoint not saved ({progress.failed_saves} failed so far)"
        texts.append(f"{failed}: {progress.save_problem}")
    return texts
