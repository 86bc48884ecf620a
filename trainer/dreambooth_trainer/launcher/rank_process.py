"""One rank of a pod as a process, and what it tells the launcher."""

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dreambooth_trainer.process import heartbeat, termination_message
from dreambooth_trainer.process.heartbeat import Heartbeat

KILL_PATIENCE_SECONDS = 5.0
"""A killed process that hangs in the kernel is not waited for."""


@dataclass(frozen=True)
class End:
    """How a rank ended. `words`: its last ones, the first line in the form `rank N: ...`."""

    rank: int
    code: int
    """128 + n when killed by signal n."""
    words: str


class LocalRank:
    """A started rank. Its heartbeat, stacks and last words are files in `folder`."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], folder: Path
    ) -> None:
        self.number = int(environment["RANK"])
        self._words = folder / f"words-{self.number}"
        self._beats = folder / f"beats-{self.number}"
        self._stacks = folder / f"stacks-{self.number}"
        files = {
            termination_message.VARIABLE: self._words,
            heartbeat.HEARTBEAT_FILE: self._beats,
            heartbeat.STACKS_FILE: self._stacks,
        }
        own = {name: str(path) for name, path in files.items()}
        self._process = subprocess.Popen(command, env={**environment, **own})
        self.heartbeat = Heartbeat()
        """The newest heartbeat that was read."""
        self._beaten = b""
        self._heard = time.monotonic()

    def end(self) -> End | None:
        """How it ended, None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        said = _text(self._words)
        if code < 0:
            said = f"rank {self.number}: killed by {_cause(-code)}"
        elif code and not said:
            said = f"rank {self.number}: ended with exit code {code} and no word; see its log"
        return End(self.number, code if code >= 0 else 128 - code, said)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, while it runs."""
        if self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it, and wait for its end."""
        self.signal(signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(KILL_PATIENCE_SECONDS)

    def silent_seconds(self) -> float:
        """Time since its last beat was heard, by this process's clock."""
        with suppress(FileNotFoundError):
            beaten = self._beats.read_bytes()
            if beaten != self._beaten:
                self._beaten, self._heard = beaten, time.monotonic()
                with suppress(ValueError):  # read while it was written
                    self.heartbeat = Heartbeat.decode(beaten)
        return time.monotonic() - self._heard

    @property
    def stacks(self) -> str:
        """What it has dumped so far."""
        return _text(self._stacks)

    @property
    def state(self) -> str:
        """The kernel's word on its process, as `T (stopped)`; "" where it cannot be known."""
        with suppress(OSError):
            for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
                if line.startswith("State:"):
                    return line.removeprefix("State:").strip()
        return ""


def _text(path: Path) -> str:
    return path.read_text(errors="replace").strip() if path.exists() else ""


def _cause(number: int) -> str:
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    return f"{name} (out of memory, or killed by hand)" if number == signal.SIGKILL else name
