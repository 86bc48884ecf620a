"""Runs a program, and measures its time and the memory of all its processes."""

import os
import resource
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.05


class ProgramError(Exception):
    """A program failed; the message is the last line that it wrote."""


@dataclass(frozen=True)
class Usage:
    """What a program took."""

    seconds: float
    cpu_seconds: float
    """Of all its processes, in user and system mode: on a busy machine, it varies less."""
    peak_bytes: int
    """Largest proportional share of memory (PSS) of all its processes together."""


def run_program(
    command: Sequence[str], environment: Mapping[str, str], log: Path, timeout: float = 600
) -> Usage:
    """Run a program to its end.

    Raises:
        ProgramError: It failed, or took longer than `timeout` seconds.
    """
    peak, began, used = 0, time.monotonic(), _cpu_seconds_of_children()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while process.poll() is None:
                if time.monotonic() - began > timeout:
                    raise ProgramError(f"no end within {timeout:.0f} s")
                peak = max(peak, sum(map(_memory, _family_of(process.pid))))
                time.sleep(SAMPLE_SECONDS)
        finally:
            process.kill()
            process.wait()
    if process.returncode:
        lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
        raise ProgramError(lines[-1])
    return Usage(time.monotonic() - began, _cpu_seconds_of_children() - used, peak)


def _cpu_seconds_of_children() -> float:
    """Of all processes below this one that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _family_of(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for number in found:
        for path in Path(f"/proc/{number}/task").glob("*/children"):
            try:
                found += map(int, path.read_text().split())
            except OSError:  # it has ended
                continue
    return found


def _memory(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
