"""Runs an attempt's pods as processes on this machine, by the rules of the Job controller.

The first pod that fails ends the attempt: its peers are asked to stop, and killed when their grace
period is over. Nothing outlives the attempt.
"""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from dreambooth_operator.local.outcome import PodEnd
from dreambooth_operator.local.pod import LocalPod

POLL_SECONDS = 0.05


@dataclass
class StopRequest:
    """How often the user asked to stop: once saves first, twice does not wait."""

    times: int = 0

    @property
    def requested(self) -> bool:
        """Stop, after saving."""
        return self.times > 0

    @property
    def at_once(self) -> bool:
        """Stop without waiting."""
        return self.times > 1

    def ask(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Ask to stop; a signal handler."""
        self.times += 1


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn Ctrl-C, SIGTERM and a closed terminal into a StopRequest."""
    stop = StopRequest()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop.ask) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_pods(
    pods: Sequence[LocalPod], stop: StopRequest, on_tick: Callable[[], None] = lambda: None
) -> list[PodEnd]:
    """Run the pods to their end; returns how each ended, in that order.

    `on_tick` is called while they run, some times a second. Whatever happens, no process is left.
    """
    try:
        for pod in pods:
            pod.start()
        return _watch(pods, stop, on_tick)
    finally:
        for pod in pods:
            pod.close()


def _watch(
    pods: Sequence[LocalPod], stop: StopRequest, on_tick: Callable[[], None]
) -> list[PodEnd]:
    ends: list[PodEnd] = []
    running = list(pods)
    deadline: float | None = None
    while running:
        ended = [(pod, end) for pod in running if (end := pod.poll())]
        ends += [end for _, end in ended]
        running = [pod for pod in running if pod not in [done for done, _ in ended]]
        if deadline is None and (stop.requested or any(end.exit_code for end in ends)):
            deadline = time.monotonic() + max((pod.grace_seconds for pod in running), default=0)
            for pod in running:
                pod.terminate()
        if stop.at_once or (deadline is not None and time.monotonic() > deadline):
            for pod in running:
                pod.kill()
        on_tick()
        time.sleep(POLL_SECONDS)
    return ends
