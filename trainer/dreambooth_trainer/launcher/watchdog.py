"""Detects ranks that make no progress, and reports where they are stuck.

It runs in the launcher's process, so it also detects a rank that is stuck in C code with the GIL.
"""

import sys
import time
from collections.abc import Sequence

from dreambooth_api.contract.exit_codes import ExitCode
from dreambooth_api.contract.termination import Termination
from dreambooth_trainer.launcher.rank_process import RankEnd, RankProcess
from dreambooth_trainer.process.heartbeat import DUMP_SIGNAL

WAITING_FACTOR = 4
"""Factor on the time-out while all ranks of a pod wait for other pods. The pod that they wait for
is then the first to be reported as stalled, with a message that names the cause."""
DUMP_TIMEOUT_SECONDS = 3.0
"""Until every rank has begun to write its stacks."""
DUMP_SETTLE_SECONDS = 0.2
"""From the first bytes of the last dump to its end."""


def are_stalled(ranks: Sequence[RankProcess], timeout: float) -> bool:
    """Whether none of the ranks has made progress for `timeout` seconds; 0: no limit."""
    # The shortest silence: ranks that wait in a collective are silent while one of them works.
    # Read even without a limit, as a report names the stage and step of the newest heartbeat.
    silence = min(rank.silent_seconds() for rank in ranks)
    all_waiting = all(rank.heartbeat.waiting for rank in ranks)
    limit = timeout * (WAITING_FACTOR if all_waiting else 1)
    return timeout > 0 and silence > limit


def report_stall(ranks: Sequence[RankProcess], problem: str | None = None) -> RankEnd:
    """Write the stacks of all ranks to the log; return the end of the rank that caused the stall.

    Args:
        ranks: The running ranks; at least one.
        problem: The reason for the report; by default, that they make no progress.
    """
    # Before the dumps, which take seconds and would make every rank look silent for longer.
    summaries = {rank.number: _summary(rank, problem) for rank in ranks}
    _dump_stacks(ranks)
    for rank in ranks:
        sys.stderr.write(f"rank {rank.number}: {summaries[rank.number]}: {_stacks(rank)}\n")
    sys.stderr.flush()
    # The cause is a rank that cannot even dump its stacks; else the rank that has been silent for
    # longest among those that do not wait for their peers.
    cause = min(ranks, key=lambda r: (bool(r.stacks), r.heartbeat.waiting, -r.silent_seconds()))
    message = (
        f"{summaries[cause.number]}; the stacks of all ranks are in the log, and the newest"
        " checkpoint is kept"
    )
    return RankEnd(cause.number, ExitCode.STALLED, Termination(rank=cause.number, message=message))


def _dump_stacks(ranks: Sequence[RankProcess]) -> None:
    for rank in ranks:
        rank.signal(DUMP_SIGNAL)
    deadline = time.monotonic() + DUMP_TIMEOUT_SECONDS
    while time.monotonic() < deadline and not all(rank.stacks for rank in ranks):
        time.sleep(0.1)
    time.sleep(DUMP_SETTLE_SECONDS)


def _summary(rank: RankProcess, problem: str | None) -> str:
    step = "" if rank.heartbeat.step is None else f", step {rank.heartbeat.step}"
    what = problem or f"no progress for {rank.silent_seconds():.0f} s"
    return f"stalled: {what} in stage {rank.heartbeat.stage}{step}"


def _stacks(rank: RankProcess) -> str:
    if rank.stacks:
        return f"the stacks of its threads:\n{rank.stacks}"
    state = f"; its state is {rank.state}" if rank.state else ""
    return f"no stacks, as its process is stopped or stuck in the kernel{state}"
