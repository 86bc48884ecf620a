"""One rank of a pod as a process, and the files through which it reports to the launcher."""

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dreambooth_api.contract import environment
from dreambooth_api.contract.termination import Termination
from dreambooth_trainer.process import heartbeat
from dreambooth_trainer.process.heartbeat import Heartbeat

KILL_TIMEOUT_SECONDS = 5.0
"""How long to wait for a killed process: one that is stuck in the kernel outlives SIGKILL."""


@dataclass(frozen=True)
class RankEnd:
    """How a rank ended: its exit code and termination message."""

    rank: int
    code: int
    """Its exit code; 128 + n when signal n killed it."""
    termination: Termination
    """The rank's own, or the launcher's for a rank that failed without one; empty after success."""


class RankProcess:
    """A started rank. Its heartbeat, stacks and termination message are files in `folder`.

    Raises:
        OSError: The process cannot be started.
    """

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], folder: Path) -> None:
        self.number = int(variables[environment.RANK])
        self._termination = folder / f"termination-{self.number}"
        self._heartbeats = folder / f"heartbeat-{self.number}"
        self._stacks = folder / f"stacks-{self.number}"
        # Files, not pipes: a full pipe would block a rank while the launcher is busy.
        files = {
            environment.TERMINATION_LOG: str(self._termination),
            heartbeat.HEARTBEAT_FILE: str(self._heartbeats),
            heartbeat.STACKS_FILE: str(self._stacks),
        }
        self._process = subprocess.Popen(command, env={**variables, **files})
        self.heartbeat = Heartbeat()
        """The newest one that was read."""
        self._content = b""
        self._received = time.monotonic()

    def end(self) -> RankEnd | None:
        """How it ended; None while it is running."""
        code = self._process.poll()
        if code is None:
            return None
        termination = Termination.decode(_text(self._termination))
        if code < 0:
            # What it wrote before, if anything, was not its last state: the signal is the reason.
            termination = self._termination_of(f"killed by {_signal_name(-code)}")
        elif code and not termination.message:
            message = f"ended with exit code {code} and without a message; see its log"
            termination = self._termination_of(message)
        return RankEnd(self.number, code if code >= 0 else 128 - code, termination)

    def _termination_of(self, message: str) -> Termination:
        return Termination(rank=self.number, message=message)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it is running."""
        if self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it, and wait at most 5 seconds (`KILL_TIMEOUT_SECONDS`) for its exit."""
        self.signal(signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(KILL_TIMEOUT_SECONDS)

    def silent_seconds(self) -> float:
        """Seconds since its newest heartbeat was read, by this process's clock."""
        # Any change counts, and the file's time does not: clocks may be set, and a torn read is
        # still a sign of life.
        with suppress(FileNotFoundError):
            content = self._heartbeats.read_bytes()
            if content != self._content:
                self._content, self._received = content, time.monotonic()
                with suppress(ValueError):  # read while it was written
                    self.heartbeat = Heartbeat.decode(content)
        return time.monotonic() - self._received

    @property
    def stacks(self) -> str:
        """The stacks that it has dumped so far, as faulthandler writes them; or empty."""
        return _text(self._stacks)

    @property
    def state(self) -> str:
        """The kernel's state of its process, as `T (stopped)`; empty where there is no /proc.

        Source: proc(5), /proc/pid/status.
        """
        with suppress(OSError):
            for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
                if line.startswith("State:"):
                    return line.removeprefix("State:").strip()
        return ""


def _text(path: Path) -> str:
    return path.read_text(errors="replace").strip() if path.exists() else ""


def _signal_name(number: int) -> str:
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    return f"{name} (out of memory, or killed by hand)" if number == signal.SIGKILL else name
