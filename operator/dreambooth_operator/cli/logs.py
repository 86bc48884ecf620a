"""`dreambooth logs`: the log of one pod of a job's newest run."""

import shutil
import sys
import time
from pathlib import Path
from typing import BinaryIO

from dreambooth_operator.cli.samples import find_run
from dreambooth_operator.errors import UserError
from dreambooth_operator.local.state import State

POLL_SECONDS = 0.5


def print_log(name_or_file: str, pod: int, follow: bool, state_folder: Path) -> None:
    """Print the log of all attempts; with `follow`, go on until the run has ended.

    Raises:
        UserError: There is no such run, or it has no such pod.
    """
    state = State(state_folder)
    _, run = find_run(name_or_file, state)
    if run is None:
        raise UserError(
            f"{name_or_file}: no run of it in {state.folder}; `dreambooth list` shows all runs"
        )
    path = run.folder / f"pod-{pod}.log"
    if not path.exists():
        pods = run.job.spec.runtime.nodes
        raise UserError(f"{path}: no such log; the run has {pods} pods, counted from 0")
    with path.open("rb") as log:
        _copy(log)
        while follow and state.is_locked():
            time.sleep(POLL_SECONDS)
            _copy(log)


def _copy(log: BinaryIO) -> None:
    shutil.copyfileobj(log, sys.stdout.buffer)
    sys.stdout.buffer.flush()
