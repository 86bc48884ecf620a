"""Runs rows one after the other, each in a process of its own and within its budget.

A process frees all memory of the GPU at its end, can be killed while a kernel hangs, and its
failure leaves the other rows alone.
"""

import multiprocessing
import os
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

from tests.bench.gpu.figures import Figure, Result

TOTAL_SECONDS = 540.0
ENOUGH_SPACE = 40 * 1024**3
"""Bytes for three checkpoints of Stable Diffusion 1.5, and room."""

# Forks of a server that has imported torch: a row starts in milliseconds, and without CUDA's state.
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["tests.bench.gpu.run"])

Measure = Callable[[Path, bool], Iterator[Figure]]
"""measure(empty folder, tiny): figures as they are measured; tiny models run on a CPU."""


class NotLandedError(Exception):
    """The trainer lacks what a row measures."""


@dataclass(frozen=True)
class Row:
    """One row. `measure` is a function of a module, as its process looks it up by name."""

    measure: Measure
    seconds: float
    """Its budget."""


def run_rows(
    rows: Mapping[str, Row], *, tiny: bool, total_seconds: float = TOTAL_SECONDS
) -> Iterator[Result]:
    """Yields each row's result at its end; a row gets what is left of the time, if that is less."""
    until = time.monotonic() + total_seconds
    for name, row in rows.items():
        left = until - time.monotonic()
        if left <= 0:
            yield Result(name, "skipped", f"all {total_seconds:.0f} s were used up")
        else:
            yield _run(name, replace(row, seconds=min(row.seconds, left)), tiny)


def _run(name: str, row: Row, tiny: bool) -> Result:
    began = time.monotonic()
    result = Result(name, "timed out", f"no end within {row.seconds:.0f} s")
    receiver, sender = _server.Pipe(duplex=False)
    folder = Path(tempfile.mkdtemp(prefix="bench-gpu-", dir=_scratch()))
    process = _server.Process(target=_measure, args=(row.measure, folder, tiny, sender))
    try:
        process.start()
        sender.close()
        while receiver.poll(max(began + row.seconds - time.monotonic(), 0)):
            message = receiver.recv()
            if not isinstance(message, Figure):
                result.outcome, result.reason = message
                break
            result.figures.append(message)
    except EOFError:
        process.join()
        result.outcome, result.reason = "failed", f"its process ended with {process.exitcode}"
    finally:
        if process.pid is not None:
            _stop(process.pid)
            process.join()
        shutil.rmtree(folder, ignore_errors=True)
    result.seconds = time.monotonic() - began
    return result


def _measure(measure: Measure, folder: Path, tiny: bool, sender: Connection) -> None:
    os.setsid()  # a process group, so that upload processes end with it
    try:
        for figure in measure(folder, tiny):
            sender.send(figure)
        sender.send(("measured", ""))
    except NotLandedError as error:
        sender.send(("skipped", str(error)))
    except Exception as error:
        traceback.print_exc()
        first_line = str(error).partition("\n")[0]
        sender.send(("failed", f"{type(error).__name__}: {first_line}"))


def _stop(pid: int) -> None:
    """Kill a process and its group; before its `setsid` it has none."""
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def _scratch() -> str | None:
    """Memory, where it has room: checkpoints of 10 GB would measure the disk."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free >= ENOUGH_SPACE
    return str(memory) if roomy else None
