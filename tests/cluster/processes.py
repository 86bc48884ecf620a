"""Long-running processes of the tests: each has a log, and none outlives the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from dreambooth_operator.local.parent_death_signal import with_parent_death_signal

TAIL_BYTES = 16 * 1024


class NotReadyError(Exception):
    """A process ended or did not become ready in time; the message holds the end of its log."""


class Daemon:
    """A process in a process group of its own. It gets a signal when its parent dies.

    Start it from the main thread: the kernel ties the process to the thread that started it.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str],
        *,
        when_orphaned: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                with_parent_death_signal(command, when_orphaned),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id, which is that of its group as well."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs; a stopped one does."""
        return self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, while it runs."""
        if self.alive:
            self._process.send_signal(number)

    def stop(self, timeout: float = 10.0) -> None:
        """Ask the process to end; kill its group when it takes longer than `timeout` seconds."""
        self.signal(signal.SIGCONT)  # a stopped process would not handle SIGTERM
        self.signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """Kill the whole group, and wait for the process."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def tail(self, lines: int = 40) -> str:
        """The end of the log."""
        return tail(self.log, lines)

    def wait_ready(self, ready: Callable[[], bool], timeout: float) -> None:
        """Return once `ready()`; raises `NotReadyError` when the process ends or time runs out."""
        until = time.monotonic() + timeout
        while not ready():
            if not self.alive or time.monotonic() > until:
                state = f"not ready after {timeout:.0f} s" if self.alive else "ended"
                raise NotReadyError(f"{self.name}: {state}. The end of {self.log}:\n{self.tail()}")
            time.sleep(0.05)


def tail(path: Path, lines: int) -> str:
    """The last lines of a file; empty when there is none."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
