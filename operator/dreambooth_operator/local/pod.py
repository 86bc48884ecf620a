"""One pod as a process group on this machine: its process, log, signals and end."""

import os
import shutil
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dreambooth_api.contract.exit_codes import ExitCode
from dreambooth_api.contract.restart import PodEnd
from dreambooth_api.contract.termination import MAX_BYTES, Termination
from dreambooth_operator.local.parent_death_signal import with_parent_death_signal

TERMINATION_LOG = "termination-log"
LOG_FALLBACK_LINES = 20
MAX_TAIL_BYTES = 64 * 1024


@dataclass
class LocalPod:
    """A pod that was set up here (core/v1 Pod). `start` it once; then `poll` until it has ended."""

    index: int
    """Completion index: the node rank."""
    name: str
    address: str
    command: list[str]
    environment: dict[str, str]
    folder: Path
    """Volumes and termination log; removed at the end, as a node does."""
    log: Path
    """Output of all attempts; it stays."""
    grace_seconds: float
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _log_start: int = 0
    _is_terminating: bool = False

    @property
    def termination_log(self) -> Path:
        """File of the termination message (core/v1 Container, terminationMessagePath)."""
        return self.folder / TERMINATION_LOG

    def start(self) -> None:
        """Start the command in a process group of its own, out of reach of the terminal's Ctrl-C.

        Call it from the main thread: the kernel ties the process to the thread that started it.

        Raises:
            OSError: The log cannot be written, or the command cannot be run.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                with_parent_death_signal(self.command),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Also makes the process the leader of a group, by which its ranks can be killed.
                start_new_session=True,
            )

    def poll(self) -> PodEnd | None:
        """How the pod ended (core/v1 PodStatus); None while it runs.

        What is left of its process group is then killed.
        """
        if self._process is None or self._process.poll() is None:
            return None
        # Ranks may survive their launcher, and would hold ports and GPUs of the next attempt.
        self._kill_group(self._process)
        code = self._process.returncode
        # Popen reports signal n as -n, a container runtime as 128 + n.
        exit_code = code if code >= 0 else 128 - code
        return PodEnd(
            self.index,
            exit_code,
            self._termination(exit_code),
            # A trainer that stops though the run has not asked it to was sent SIGTERM by others.
            stop_requested=exit_code == ExitCode.STOPPED and not self._is_terminating,
        )

    def terminate(self) -> None:
        """Send SIGTERM to the container's first process, as the kubelet does.

        Its grace period (spec.terminationGracePeriodSeconds) is for the caller to watch.
        """
        if self._process is not None and self._process.poll() is None:
            self._is_terminating = True
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the whole process group, while it runs."""
        if self._process is not None and self._process.poll() is None:
            self._kill_group(self._process)

    def close(self) -> None:
        """Kill what still runs and remove the pod's folder; the log stays."""
        self.kill()
        if self._process is not None:
            self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def _kill_group(process: subprocess.Popen[bytes]) -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def last_lines(self, count: int) -> list[str]:
        """The last `count` lines that the pod has logged in this attempt."""
        text = _tail(self.log, MAX_TAIL_BYTES, self._log_start)
        return text.splitlines()[-count:]

    def _termination(self, exit_code: int) -> Termination:
        """The termination message, by core/v1 terminationMessagePolicy FallbackToLogsOnError."""
        written = self.termination_log
        text = _tail(written, MAX_BYTES).strip() if written.is_file() else ""
        if not text and exit_code:
            text = "\n".join(self.last_lines(LOG_FALLBACK_LINES))
        return Termination.decode(text)


def _tail(path: Path, limit: int, start: int = 0) -> str:
    """At most `limit` bytes at the end of a file, from byte `start` on."""
    with path.open("rb") as file:
        file.seek(max(start, file.seek(0, os.SEEK_END) - limit))
        return file.read().decode(errors="replace")
