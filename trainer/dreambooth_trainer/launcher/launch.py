"""Starts a pod's ranks: a small torchrun that keeps their exit codes and their last words.

torchrun itself turns every failure into exit code 1 and SIGTERM into a traceback, so the operator
could not tell bad data from a lost node. This starts the same ranks from the same PET_* variables,
forwards SIGTERM, and exits as the rank did that failed first. When no rank makes progress for
`spec.runtime.stallTimeoutSeconds`, it dumps their stacks into the log, kills them and exits with
70.

The termination message is that of the rank that decided the exit code. Its first line always has
the form `rank N: ...`, as `rank 3: NotFinite: the subject loss is nan at step 40; ...`, with N
counted over all pods; the operator reads N from there.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dreambooth_trainer.launcher import watchdog
from dreambooth_trainer.launcher.rank_process import End, LocalRank
from dreambooth_trainer.process.errors import NOT_RETRYABLE, STOPPED_EXIT_CODE, BadConfigError
from dreambooth_trainer.process.signals import StopSignal
from dreambooth_trainer.process.termination_message import leave

KILLED = {128 + number for number in (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL)}
"""Exit codes of a rank's own death. SIGABRT can be a library's answer to a lost connection."""
PEER_PATIENCE_SECONDS = 15.0
"""How long the other ranks of the pod may take to end by themselves once one has failed."""
STOP_RESERVE_SECONDS = 10.0
"""Part of the grace period that is kept for saying why the ranks did not stop."""
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Limits:
    """How long ranks are waited for, in seconds."""

    stall: float
    """Without progress; 0: for ever."""
    stop: float
    """From being asked to stop to their end."""


def rank_environments(environment: Mapping[str, str]) -> list[dict[str, str]]:
    """The environment of each local rank, from PET_NNODES, PET_NPROC_PER_NODE, PET_NODE_RANK,
    PET_MASTER_*.
    """
    nodes = int(environment.get("PET_NNODES", "1"))
    local_size = int(environment.get("PET_NPROC_PER_NODE", "1"))
    node = int(environment.get("PET_NODE_RANK", "0"))
    shared = {
        **environment,
        "WORLD_SIZE": str(nodes * local_size),
        "LOCAL_WORLD_SIZE": str(local_size),
        "GROUP_RANK": str(node),
        "MASTER_ADDR": environment.get("PET_MASTER_ADDR", "127.0.0.1"),
        "MASTER_PORT": environment.get("PET_MASTER_PORT", "29500"),
    }
    return [
        {**shared, "RANK": str(node * local_size + local), "LOCAL_RANK": str(local)}
        for local in range(local_size)
    ]


@contextmanager
def started(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[list[LocalRank]]:
    """The pod's ranks, each running `command`; none is left at the end."""
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        ranks = [LocalRank(command, own, Path(folder)) for own in rank_environments(environment)]
        try:
            yield ranks
        finally:
            for rank in ranks:
                rank.kill()


def watch(ranks: Sequence[LocalRank], limits: Limits, stop: StopSignal) -> int:
    """Watch the ranks to their ends, leave the termination message, return the pod's exit code."""
    ends = _Watch(ranks, limits, stop).ends()
    decisive = culprit(ends, stop.requested)
    if words := decisive.words if decisive else _done(ends):
        leave(words)
    if decisive is None:
        return 0
    # A stop that a rank took for a lost connection is still a stop, unless a rank says better.
    stopped = stop.requested and decisive.code not in NOT_RETRYABLE
    return STOPPED_EXIT_CODE if stopped else decisive.code


def _done(ends: Sequence[End]) -> str:
    """What a rank that has succeeded says: rank 0 alone does."""
    return next((end.words for end in ends if end.words), "")


def culprit(ends: Sequence[End], stopping: bool = False) -> End | None:
    """The end that decides, of ranks in the order in which they ended; None when none failed.

    A rank that knows why it ended says more than its peers, who only lost a connection; so does
    one that was killed.
    """
    failed = [end for end in ends if end.code]
    telling = [end for end in failed if end.code in NOT_RETRYABLE]
    stopped = [end for end in failed if stopping and end.code == STOPPED_EXIT_CODE]
    killed = [end for end in failed if end.code in KILLED]
    return next(iter(telling or stopped or killed or failed), None)


class _Watch:
    """The ranks on their way to their ends."""

    def __init__(self, ranks: Sequence[LocalRank], limits: Limits, stop: StopSignal) -> None:
        self._running = list(ranks)
        self._limits = limits
        self._stop = stop
        self._ends: list[End] = []
        self._peers_until = self._stop_until = float("inf")

    def ends(self) -> list[End]:
        """The ends in order; ranks that hang, or do not end after a peer, have none of their own.

        The end of those that hang is that of the one to blame.
        """
        while not self._over():
            time.sleep(POLL_SECONDS)
        return self._ends

    def _over(self) -> bool:
        self._collect()
        self._forward_stop()
        now = time.monotonic()
        if not self._running or now > self._peers_until:
            return True
        if now > self._stop_until:
            problem = f"still running {self._limits.stop:.0f} s after it was asked to stop"
            self._ends.append(watchdog.examine(self._running, problem))
            return True
        if watchdog.stalled(self._running, self._limits.stall):
            self._ends.append(watchdog.examine(self._running))
            return True
        return False

    def _collect(self) -> None:
        for rank, end in [(rank, end) for rank in self._running if (end := rank.end())]:
            self._running.remove(rank)
            self._ends.append(end)
            if end.code:
                patience = time.monotonic() + PEER_PATIENCE_SECONDS
                self._peers_until = min(self._peers_until, patience)

    def _forward_stop(self) -> None:
        if self._stop.requested and self._stop_until == float("inf"):
            self._stop_until = time.monotonic() + self._limits.stop
            for rank in self._running:
                rank.signal(signal.SIGTERM)


def limits_of(config: Path) -> Limits:
    """The limits of a job file; none when it is bad, as the ranks then end by themselves."""
    from dreambooth_trainer.process.topology import load_job  # late: the ranks start meanwhile

    try:
        runtime = load_job(config).spec.runtime
    except BadConfigError:
        return Limits(stall=0, stop=float("inf"))
    grace = runtime.termination_grace_period_seconds
    return Limits(runtime.stall_timeout_seconds, grace - STOP_RESERVE_SECONDS)


def main() -> int:
    """Run the ranks with this process's arguments; return the pod's exit code."""
    parser = argparse.ArgumentParser(prog="dreambooth_trainer.launcher", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the job file")
    config: Path = parser.parse_args().config
    stop = StopSignal()
    stop.install()
    command = [sys.executable, "-m", "dreambooth_trainer", "--config", str(config)]
    with started(command, os.environ) as ranks:
        return watch(ranks, limits_of(config), stop)
