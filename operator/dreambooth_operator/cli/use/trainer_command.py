"""The trainer on the result of a run, and what the terminal shows of it."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from dreambooth_api.contract.exit_codes import ExitCode
from dreambooth_operator.cli.terminal.end import print_entry, print_text
from dreambooth_operator.cli.terminal.screen import screen_for
from dreambooth_operator.local.runner import stop_on_signals
from dreambooth_operator.local.storage import LocalStorage
from dreambooth_operator.local.trainer_command import run_trainer

FAILURE_LOG_LINES = 15


def run_on_result(
    storage: LocalStorage,
    folder: Path,
    arguments: Sequence[str],
    console: Console,
    *,
    stopped: Callable[[], str],
    cache: Path | None = None,
) -> int:
    """Run the trainer with these arguments, and print how it goes and ends.

    Args:
        storage: The job and its storage.
        folder: For the pods' logs.
        arguments: Of the trainer's command line.
        console: The terminal.
        stopped: What is kept when the user stops it.
        cache: Folder that keeps downloaded models, by their content; by default none does.

    Returns:
        0, or the trainer's exit code (`ExitCode`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    print_entry(console, "logs", f"{folder}/pod-*.log")
    screen = screen_for(console)
    with stop_on_signals() as stop:
        try:
            failed = run_trainer(storage, folder, arguments, stop, screen, cache)
        finally:
            screen.close()
    if failed is None:
        return ExitCode.DONE
    pod, end = failed
    if stop.requested:
        print_text(console, f"stopped: {stopped()}")
    else:
        print_text(console, f"FAILED with exit code {end.exit_code}", style="bold red")
        message = end.termination.message or "\n".join(pod.last_lines(FAILURE_LOG_LINES))
        print_text(console, message)
    return end.exit_code or ExitCode.ERROR
