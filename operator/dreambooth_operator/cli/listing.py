"""`dreambooth list`: the runs in the state folder."""

import sys
from pathlib import Path

from dreambooth_api.contract.times import human_duration, now
from dreambooth_api.models.job import output_layout
from dreambooth_operator.local.state import Run, State

HEADER = ("NAME", "STATE", "ATTEMPTS", "AGE", "OUTPUT")


def print_runs(state_folder: Path) -> None:
    """Print a line for each run, the newest first, in columns as `kubectl get` does."""
    state = State(state_folder)
    running = state.running()
    rows = [HEADER, *(_row(run, running) for run in state.runs())]
    if len(rows) == 1:
        sys.stderr.write(f"no runs in {state.folder}\n")
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("   ".join(cells).rstrip() + "\n")


def _row(run: Run, running: Run | None) -> tuple[str, ...]:
    record = run.record
    # A process that was killed could not record how its run ended.
    goes_on = running is not None and running.folder == run.folder
    interrupted = record.state == "Running" and not goes_on
    return (
        record.job.metadata.name,
        "Interrupted" if interrupted else record.state,
        str(record.attempts),
        human_duration((now() - record.started).total_seconds()),
        f"{output_layout(record.job).root}/",
    )
