"""Starts a pod's ranks: a small torchrun that keeps their exit codes.

torchrun itself turns every failure into exit code 1 and SIGTERM into a traceback, so the operator
could not tell bad data from a lost node. This starts the same ranks from the same PET_* variables,
forwards SIGTERM, and exits as the rank did that failed first.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from dreambooth_trainer.errors import STOPPED_EXIT_CODE

NOT_RETRYABLE = range(64, 70)
PEER_PATIENCE_SECONDS = 15.0
"""How long the other ranks of the pod may take to end by themselves once one has failed."""


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


def exit_code(codes: Sequence[int]) -> int:
    """The pod's exit code from its ranks' codes, in the order in which they ended.

    A rank that knows why it ended says more than its peers, who only lost a connection.
    """
    failed = [code if code >= 0 else 128 - code for code in codes if code]
    telling = [code for code in failed if code in NOT_RETRYABLE]
    return next(iter(telling or failed), 0)


def main() -> int:
    """Run the ranks with this process's arguments; return the pod's exit code."""
    command = [sys.executable, "-m", "dreambooth_trainer", *sys.argv[1:]]
    ranks = [subprocess.Popen(command, env=env) for env in rank_environments(os.environ)]
    stopping = False

    def forward(number: int, frame: object) -> None:
        nonlocal stopping
        stopping = True
        _signal_all(ranks, signal.SIGTERM)

    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGINT, forward)
    code = exit_code(_wait(ranks))
    # A stop that a rank took for a lost connection is still a stop, unless a rank says better.
    return STOPPED_EXIT_CODE if stopping and code and code not in NOT_RETRYABLE else code


def _wait(ranks: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """Wait for all ranks; once one has failed its peers get a while to end, and are killed."""
    codes: list[int] = []
    running = list(ranks)
    deadline = float("inf")
    while running:
        for process in [p for p in running if p.poll() is not None]:
            running.remove(process)
            codes.append(process.returncode)
            if process.returncode:
                deadline = min(deadline, time.monotonic() + PEER_PATIENCE_SECONDS)
        if time.monotonic() > deadline:
            _signal_all(running, signal.SIGKILL)
            deadline = float("inf")
        time.sleep(0.05)
    return codes


def _signal_all(processes: Sequence[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


if __name__ == "__main__":
    sys.exit(main())
