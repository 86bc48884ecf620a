"""`dreambooth logs`: the log of one pod of a job's newest run."""

import shutil
import sys
import time
from pathlib import Path
from typing import BinaryIO

from dreambooth_operator.cli.find import find_run
from dreambooth_operator.errors import UserError
from dreambooth_operator.local.state import Run, State

POLL_SECONDS = 0.5


def print_log(name_or_file: str, pod: int, follow: bool, state_folder: Path) -> None:
    """Print the log of all attempts; with `follow`, go on until the run has ended.

    Raises:
        UserError: There is no such run, it has no such pod, or the pod has not started.
    """
    state = State(state_folder)
    run = _newest_run(name_or_file, state)
    path, pods = run.folder / f"pod-{pod}.log", run.job.spec.runtime.nodes
    # An earlier attempt may have had more pods.
    if pod >= pods and not path.exists():
        raise UserError(f"--pod {pod}: no such pod; the run has {pods} pods, counted from 0")
    while follow and not path.exists() and _is_running(run, state):
        time.sleep(POLL_SECONDS)
    if not path.exists():
        raise UserError(f"{path}: no log yet, as the pod has not started; wait with --follow")
    with path.open("rb") as log:
        _copy(log)
        while follow and _is_running(run, state):
            time.sleep(POLL_SECONDS)
            _copy(log)
        _copy(log)


def _newest_run(name_or_file: str, state: State) -> Run:
    """The run of the job that goes on now, even if no pod has started yet; else its newest one."""
    job, newest = find_run(name_or_file, state)
    name, namespace = (job.metadata.name, job.metadata.namespace) if job else (name_or_file, None)
    running = state.running()
    if running is not None and running.is_of(name, namespace):
        return running
    if newest is None:
        raise UserError(
            f"{name_or_file}: no run of it in {state.folder}; `dreambooth list` shows all runs"
        )
    return newest


def _is_running(run: Run, state: State) -> bool:
    running = state.running()
    return running is not None and running.folder == run.folder


def _copy(log: BinaryIO) -> None:
    shutil.copyfileobj(log, sys.stdout.buffer)
    sys.stdout.buffer.flush()
