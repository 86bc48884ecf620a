"""Node agents as processes, and node failures."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.cluster.processes import Daemon

ROOT = Path(__file__).parents[2]


class Node:
    """One node: an agent that runs pods as processes."""

    def __init__(
        self,
        kubeconfig: Path,
        name: str,
        folder: Path,
        image: str,
        *,
        environment: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.folder = folder
        module = [sys.executable, "-m", "tests.cluster.node"]
        given = {"kubeconfig": kubeconfig, "name": name, "folder": folder, "image": image}
        self._command = module + [f"--{option}={value}" for option, value in given.items()]
        self._command += [f"--env={key}={value}" for key, value in (environment or {}).items()]
        self._command += options
        self._agent = self._start()

    def _start(self) -> Daemon:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        return Daemon(self.name, self._command, self.folder / "agent.log", environment)

    @property
    def running(self) -> bool:
        """Whether the agent runs, if only stopped."""
        return self._agent.alive

    def freeze(self) -> None:
        """Lose touch with the node: no heartbeat and no answers, but its processes go on."""
        self._agent.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """The node is back, with the processes that it had."""
        self._agent.signal(signal.SIGCONT)

    def pause(self) -> None:
        """Everything on the node stands still, as in a virtual machine that is being moved."""
        self.freeze()
        self._signal_pods(signal.SIGSTOP)

    def unpause(self) -> None:
        """Everything goes on as if no time had passed."""
        self._signal_pods(signal.SIGCONT)
        self.thaw()

    def power_off(self) -> None:
        """Kill everything on the node; nothing is reported."""
        self._agent.kill()
        self._signal_pods(signal.SIGKILL)

    def restart(self) -> None:
        """Boot the node again after `power_off` or `stop`."""
        self._agent = self._start()

    def stop(self) -> None:
        """Shut the agent down: it kills its pods and takes its Node away."""
        self._agent.stop()

    def tail(self, lines: int = 40) -> str:
        """The end of the agent's log."""
        return self._agent.tail(lines)

    def processes(self, namespace: str = "*", pod: str = "*") -> list[int]:
        """The first processes of pods, by namespace and name or pattern."""
        files = self.folder.glob(f"pods/{namespace}/{pod}-*/pid")
        return [int(file.read_text()) for file in files]

    def _signal_pods(self, number: signal.Signals) -> None:
        for process in self.processes():
            with suppress(ProcessLookupError):
                os.killpg(process, number)

    def logs(self, namespace: str, pod: str = "*") -> list[Path]:
        """The logs of pods, of those that are gone too; the oldest first."""
        found = self.folder.glob(f"logs/{namespace}/{pod}-*.log")
        return sorted(found, key=lambda path: path.stat().st_ctime)
