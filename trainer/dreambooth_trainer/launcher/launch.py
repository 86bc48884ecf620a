"""Starts the ranks of a pod: a small torchrun that keeps exit codes and termination messages.

It starts the same ranks from the same PET_* variables as torchrun, forwards SIGTERM to them, and
exits with the code of the rank that ended the attempt (`decisive_end`), whose termination message
becomes the pod's. When no rank makes progress for `spec.runtime.stallTimeoutSeconds`, it writes
their stacks to the log, kills them and exits with `ExitCode.STALLED`.

Why not torchrun itself: docs/adr/0005-start-ranks-without-torchrun.md.
"""

import argparse
import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from dreambooth_api.contract import environment
from dreambooth_api.contract.exit_codes import ExitCode, is_retryable
from dreambooth_api.contract.termination import Termination
from dreambooth_trainer.launcher import watchdog
from dreambooth_trainer.launcher.rank_process import RankEnd, RankProcess
from dreambooth_trainer.process.contract_version import check_contract_version
from dreambooth_trainer.process.errors import BadConfigError
from dreambooth_trainer.process.signals import StopSignal
from dreambooth_trainer.process.termination_message import write_termination

KILLED = {128 + number for number in (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL)}
"""Exit codes of a rank that died of its own failure. SIGABRT is left out, as a library may abort
when it loses the connection to a peer."""
PEER_TIMEOUT_SECONDS = 15.0
"""How long the other ranks of the pod may take to exit by themselves once one has failed."""
PREFLIGHT_SECONDS = 900.0
"""How long the checks may take in the first pod, which report no progress."""
STOP_RESERVE_SECONDS = 10.0
"""Part of the grace period that is kept for reporting why the ranks did not stop."""
POLL_SECONDS = 0.05
"""A poll costs a few system calls per rank; waiting for several processes and for their heartbeats
at once would take more code."""


@dataclass(frozen=True)
class Limits:
    """How long ranks may take, in seconds."""

    stall: float
    """Without progress; 0: no limit."""
    stop: float
    """From SIGTERM to their exit."""


def rank_environments(variables: Mapping[str, str]) -> list[dict[str, str]]:
    """The environment of each local rank, from the pod's PET_* variables.

    Raises:
        ValueError: A variable is no number.
    """
    nodes = int(variables.get(environment.NODES, "1"))
    local_size = int(variables.get(environment.RANKS_PER_NODE, "1"))
    node = int(variables.get(environment.NODE_RANK, "0"))
    port = variables.get(environment.LAUNCHER_MASTER_PORT, environment.DEFAULT_RENDEZVOUS_PORT)
    shared = {
        **variables,
        environment.WORLD_SIZE: str(nodes * local_size),
        environment.LOCAL_WORLD_SIZE: str(local_size),
        environment.GROUP_RANK: str(node),
        environment.MASTER_ADDR: variables.get(environment.LAUNCHER_MASTER_ADDR, "127.0.0.1"),
        environment.MASTER_PORT: str(port),
    }
    return [
        {
            **shared,
            environment.RANK: str(node * local_size + local),
            environment.LOCAL_RANK: str(local),
        }
        for local in range(local_size)
    ]


@contextmanager
def start_ranks(
    command: Sequence[str], variables: Mapping[str, str]
) -> Iterator[list[RankProcess]]:
    """Start the pod's ranks, each running `command`, and kill those that are left at the end.

    Raises:
        OSError: A process cannot be started.
    """
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        ranks = [RankProcess(command, own, Path(folder)) for own in rank_environments(variables)]
        try:
            yield ranks
        finally:
            for rank in ranks:
                rank.kill()


def check_job(config: Path, limits: Limits, stop: StopSignal) -> int:
    """Run the preflight in this pod, and return its exit code.

    Its report is in the log; that of a job that cannot be trained is the termination message, too.
    """
    command = [sys.executable, "-m", "dreambooth_trainer.preflight", "--config", str(config)]
    alone = {environment.NODES: "1", environment.RANKS_PER_NODE: "1"}
    with start_ranks(command, {**os.environ, **alone}) as processes:
        ends = _Supervisor(processes, replace(limits, stall=PREFLIGHT_SECONDS), stop).run()
    decisive = decisive_end(ends, stop.requested)
    if decisive is None:  # the message of the pod is that of its ranks
        return ExitCode.DONE
    _write_termination(ends, decisive)
    return ExitCode.STOPPED if stop.requested and is_retryable(decisive.code) else decisive.code


def supervise(ranks: Sequence[RankProcess], limits: Limits, stop: StopSignal) -> int:
    """Wait for the ranks to exit, write the termination message, return the pod's exit code."""
    ends = _Supervisor(ranks, limits, stop).run()
    decisive = decisive_end(ends, stop.requested)
    _write_termination(ends, decisive)
    if decisive is None:
        return ExitCode.DONE
    # During a stop, ranks also fail because their peers have exited. A code that no restart helps
    # has another reason, and stays.
    stopped = stop.requested and is_retryable(decisive.code)
    return ExitCode.STOPPED if stopped else decisive.code


def decisive_end(ends: Sequence[RankEnd], stopping: bool = False) -> RankEnd | None:
    """The end that explains why the pod ended; None when no rank failed.

    Args:
        ends: The ends of the ranks, in order of time.
        stopping: Whether the pod was asked to stop.
    """
    # The other ranks of a failed one only report a broken connection, and may do so before it has
    # exited. A terminal exit code, a stop and a kill are causes of their own, so they come first.
    failed = [end for end in ends if end.code]
    terminal = [end for end in failed if not is_retryable(end.code)]
    stopped = [end for end in failed if stopping and end.code == ExitCode.STOPPED]
    killed = [end for end in failed if end.code in KILLED]
    return next(iter(terminal or stopped or killed or failed), None)


def _write_termination(ends: Sequence[RankEnd], decisive: RankEnd | None) -> None:
    """Write the decisive rank's message with the newest checkpoint that any rank knows of."""
    written = [end.termination for end in ends if end.termination.message]
    termination = decisive.termination if decisive else next(iter(written), None)
    if termination is not None:
        known = [each.checkpoint for each in written if each.checkpoint]
        newest = max(known, key=lambda checkpoint: checkpoint.step, default=None)
        write_termination(termination.model_copy(update={"checkpoint": newest}))


class _Supervisor:
    """Polls the ranks until all have exited, or the time of the remaining ones is up."""

    def __init__(self, ranks: Sequence[RankProcess], limits: Limits, stop: StopSignal) -> None:
        self._running = list(ranks)
        self._limits = limits
        self._stop = stop
        self._ends: list[RankEnd] = []
        self._peer_deadline = self._stop_deadline = math.inf

    def run(self) -> list[RankEnd]:
        """The ends in order of time. Of ranks that are stuck, only the cause is among them."""
        while not self._is_over():
            time.sleep(POLL_SECONDS)
        return self._ends

    def _is_over(self) -> bool:
        self._collect_ends()
        self._forward_stop()
        now = time.monotonic()
        if not self._running or now > self._peer_deadline:
            return True
        if now > self._stop_deadline:
            problem = f"still running {self._limits.stop:.0f} s after it was asked to stop"
            self._ends.append(watchdog.report_stall(self._running, problem))
            return True
        if watchdog.are_stalled(self._running, self._limits.stall):
            self._ends.append(watchdog.report_stall(self._running))
            return True
        return False

    def _collect_ends(self) -> None:
        for rank, end in [(rank, end) for rank in self._running if (end := rank.end())]:
            self._running.remove(rank)
            self._ends.append(end)
            if end.code:
                # Ranks in a collective with it may wait for hours. The first failure counts: later
                # ones are its consequences and do not move the deadline.
                deadline = time.monotonic() + PEER_TIMEOUT_SECONDS
                self._peer_deadline = min(self._peer_deadline, deadline)

    def _forward_stop(self) -> None:
        if self._stop.requested and self._stop_deadline == math.inf:
            self._stop_deadline = time.monotonic() + self._limits.stop
            for rank in self._running:
                rank.signal(signal.SIGTERM)


def _is_to_check(variables: Mapping[str, str]) -> bool:
    """Whether this pod makes the preflight's checks; the others wait for it in the rendezvous."""
    first = variables.get(environment.NODE_RANK, "0") == "0"
    return first and variables.get(environment.PREFLIGHT) == "1"


def limits_of(config: Path) -> Limits:
    """The limits of a job file; no limits for an invalid one, which the ranks refuse."""
    # Imported here, as the ranks were started by now, and load meanwhile.
    from dreambooth_trainer.process.topology import load_job

    try:
        runtime = load_job(config, check_rules=False).spec.runtime  # the ranks check them
    except BadConfigError:
        return Limits(stall=0, stop=math.inf)
    grace = runtime.termination_grace_period_seconds
    return Limits(runtime.stall_timeout_seconds, grace - STOP_RESERVE_SECONDS)


def main() -> int:
    """Run the ranks with this process's arguments; return the pod's exit code."""
    parser = argparse.ArgumentParser(prog="dreambooth_trainer.launcher", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the job file")
    parser.add_argument("--protocol", help="score the job's result by this protocol instead")
    parser.add_argument("--generate", help="generate the images of this file instead")
    arguments = parser.parse_args()
    config: Path = arguments.config
    try:
        # Before the ranks: another version's job file may not even parse.
        check_contract_version(os.environ)
    except BadConfigError as error:
        sys.stderr.write(f"{error}\n")
        write_termination(Termination(message=str(error)))
        return error.exit_code
    # Before the ranks start: the default action of SIGTERM would leave them behind.
    stop = StopSignal()
    stop.install()
    if _is_to_check(os.environ) and (code := check_job(config, limits_of(config), stop)):
        return code
    command = [sys.executable, "-m", "dreambooth_trainer", "--config", str(config)]
    command += ["--protocol", arguments.protocol] if arguments.protocol else []
    command += ["--generate", arguments.generate] if arguments.generate else []
    with start_ranks(command, os.environ) as ranks:
        return supervise(ranks, limits_of(config), stop)
