"""A container as a process group on this machine."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dreambooth_operator.local.parent_death_signal import with_parent_death_signal
from tests.cluster.processes import tail

MESSAGE_LIMIT = 4096
"""Longest termination message, in bytes."""
FALLBACK_LIMIT = 2048
FALLBACK_LINES = 80
"""At most so much of the log stands in for a termination message."""


@dataclass
class Container:
    """A command with its environment and files. `start` it once, then `wait`."""

    command: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    log: Path
    termination_log: Path
    log_is_message: bool
    """terminationMessagePolicy FallbackToLogsOnError."""
    _process: asyncio.subprocess.Process | None = None

    @property
    def executable(self) -> str | None:
        """Where the command is, or None when the environment's PATH does not lead to it."""
        return shutil.which(self.command[0], path=self.environment.get("PATH", ""))

    @property
    def started(self) -> bool:
        """Whether there is, or was, a process."""
        return self._process is not None

    async def start(self) -> int:
        """Start the first process; returns its id, which is that of its group as well.

        Call it on the main thread: the process is asked to end when that thread dies.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *with_parent_death_signal(self.command),
                env=dict(self.environment),
                cwd=self.folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        (self.folder / "pid").write_text(str(self._process.pid))
        return self._process.pid

    async def wait(self) -> int:
        """The exit code, 128 + n after signal n. What is left of the group is killed."""
        assert self._process is not None
        code = await self._process.wait()
        self._signal_group(signal.SIGKILL)
        return code if code >= 0 else 128 - code

    def terminate(self) -> None:
        """Ask the first process to end."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill every process of the container, while the first one runs."""
        if self._process is not None and self._process.returncode is None:
            self._signal_group(signal.SIGKILL)

    def message(self, exit_code: int) -> str:
        """The termination message."""
        written = self.termination_log
        text = written.read_text(errors="replace") if written.is_file() else ""
        if not text and exit_code and self.log_is_message:
            return _last_bytes(tail(self.log, FALLBACK_LINES), FALLBACK_LIMIT)
        return _last_bytes(text, MESSAGE_LIMIT)

    def _signal_group(self, number: signal.Signals) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def _last_bytes(text: str, limit: int) -> str:
    return text.encode()[-limit:].decode(errors="ignore")
