"""Runs an attempt's pods as processes on this machine, by the rules of the Job controller.

The first pod that fails ends the attempt: its peers are asked to stop, and killed when their grace
period is over. Nothing outlives the attempt.
"""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from dreambooth_api.contract.restart import PodEnd
from dreambooth_operator.local.pod import LocalPod

POLL_SECONDS = 0.05


@dataclass
class StopRequest:
    """How many times the user has asked to stop: once saves the state, twice does not."""

    count: int = 0

    @property
    def requested(self) -> bool:
        """Whether to save the state and stop."""
        return self.count > 0

    @property
    def immediate(self) -> bool:
        """Whether to stop without saving: the user has requested it a second time."""
        return self.count > 1

    def add(self) -> None:
        """Count one more request to stop."""
        self.count += 1


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Count Ctrl-C, SIGTERM and a closed terminal (SIGHUP) as requests to stop."""
    stop = StopRequest()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # Handlers only count: an exception out of a handler could leave processes behind.
    before = {number: signal.signal(number, lambda *_: stop.add()) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_pods(
    pods: Sequence[LocalPod], stop: StopRequest, on_tick: Callable[[], None] = lambda: None
) -> list[PodEnd]:
    """Run the pods to their end; returns how each ended, in the order in which they did.

    `on_tick` is called every `POLL_SECONDS` while they run. No process is left, not even when
    `on_tick` raises.
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
        # Pods that end within one poll count in the order of their indices.
        ended = [(pod, end) for pod in running if (end := pod.poll())]
        ends += [end for _, end in ended]
        running = [pod for pod in running if pod not in [done for done, _ in ended]]
        # As the Job controller: the first failure ends the attempt for all pods.
        if deadline is None and (stop.requested or any(end.exit_code for end in ends)):
            deadline = time.monotonic() + max((pod.grace_seconds for pod in running), default=0)
            for pod in running:
                pod.terminate()
        # As the kubelet: SIGKILL when the grace period is over.
        if stop.immediate or (deadline is not None and time.monotonic() > deadline):
            for pod in running:
                pod.kill()
        # After the signals, which must not wait for the terminal.
        on_tick()
        time.sleep(POLL_SECONDS)
    return ends
