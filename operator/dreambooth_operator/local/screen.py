"""The interface that a run reports to; the command line implements it."""

from typing import Protocol

from dreambooth_api.contract.progress import Progress


class Screen(Protocol):
    """Shows a run to its user."""

    def print_line(self, text: str) -> None:
        """Print a line that is never redrawn."""

    def attempt_started(self, attempt: int) -> None:
        """Announce an attempt; its pods are about to start."""

    def update(self, progress: Progress | None, problem: str | None, stopping: bool) -> None:
        """Show the newest progress, None before the first answer. Called many times a second.

        `problem` says why the newest answer could not be read.
        """

    def close(self) -> None:
        """Restore the terminal; no other method is called afterwards."""
