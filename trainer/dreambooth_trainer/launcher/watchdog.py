"""Finds ranks that make no progress, and says where they are stuck.

It lives in the launcher, so a rank that is stuck in C code and holds the GIL is found too.
"""

import sys
import time
from collections.abc import Sequence

from dreambooth_trainer.launcher.rank_process import End, LocalRank
from dreambooth_trainer.process.errors import STALLED_EXIT_CODE
from dreambooth_trainer.process.heartbeat import DUMP_SIGNAL

WAITING_FACTOR = 4
"""A pod whose ranks all wait for those of other pods is given so many times as long: the pod that
they wait for is stalled first, and is the one to blame."""
DUMP_PATIENCE_SECONDS = 3.0


def stalled(ranks: Sequence[LocalRank], timeout: float) -> bool:
    """Whether none of the ranks has made progress for `timeout` seconds; 0: never."""
    silence = min(rank.silent_seconds() for rank in ranks)
    patience = timeout * (WAITING_FACTOR if all(rank.heartbeat.waiting for rank in ranks) else 1)
    return timeout > 0 and silence > patience


def examine(ranks: Sequence[LocalRank], problem: str | None = None) -> End:
    """Write the stacks of all ranks into the log; returns the end of the one to blame.

    problem: what is wrong with them; by default, that they make no progress.
    """
    found = {rank.number: _where(rank, problem) for rank in ranks}
    _dump(ranks)
    for rank in ranks:
        sys.stderr.write(f"{found[rank.number]}: {_stacks(rank)}\n")
    sys.stderr.flush()
    # Who cannot even say where it is hangs for certain; else who has been silent for longest.
    guilty = min(ranks, key=lambda r: (bool(r.stacks), r.heartbeat.waiting, -r.silent_seconds()))
    advice = "the stacks of all ranks are in the log, and the newest checkpoint stands"
    return End(guilty.number, STALLED_EXIT_CODE, f"{found[guilty.number]}; {advice}")


def _dump(ranks: Sequence[LocalRank]) -> None:
    for rank in ranks:
        rank.signal(DUMP_SIGNAL)
    deadline = time.monotonic() + DUMP_PATIENCE_SECONDS
    while time.monotonic() < deadline and not all(rank.stacks for rank in ranks):
        time.sleep(0.1)
    time.sleep(0.2)  # the last one may still be writing


def _where(rank: LocalRank, problem: str | None) -> str:
    beat = rank.heartbeat
    step = "" if beat.step is None else f", step {beat.step}"
    what = problem or f"no progress for {rank.silent_seconds():.0f} s"
    return f"rank {rank.number}: Stalled: {what} in stage {beat.stage}{step}"


def _stacks(rank: LocalRank) -> str:
    if rank.stacks:
        return f"the stacks of its threads:\n{rank.stacks}"
    state = f"; its state is {rank.state}" if rank.state else ""
    return f"it cannot say where, as its process is stopped or hangs in the kernel{state}"
