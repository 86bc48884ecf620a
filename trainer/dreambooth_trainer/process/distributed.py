"""The ranks of one attempt: joining them, and exchanging small objects on the host.

Host collectives go over gloo even where gradients go over NCCL, so they never wait for the device.
"""

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from dreambooth_trainer.process import heartbeat
from dreambooth_trainer.process.errors import TrainerError
from dreambooth_trainer.process.signals import StopSignal
from dreambooth_trainer.process.topology import Topology

T = TypeVar("T")

COLLECTIVE_TIMEOUT = timedelta(hours=2)
"""Ranks may be far apart while one of them uploads or exports. A rank that hangs is detected much
earlier, by the launcher's watchdog."""


class PeerError(TrainerError):
    """An error of another rank that cannot be pickled; its type and message are kept."""


class Ranks:
    """All ranks of the attempt; the same calls work for a single one.

    Every rank must call the collective methods in the same order, or all of them wait until
    `COLLECTIVE_TIMEOUT`.
    """

    def __init__(self, topology: Topology, host_group: Any = None) -> None:
        self.topology = topology
        self._group = host_group

    def gather(self, value: T) -> list[T]:
        """The value of every rank, in rank order, on every rank. Collective."""
        if self._group is None:
            return [value]
        values: list[Any] = [None] * self.topology.world_size
        with heartbeat.waiting_for_peers():
            dist.all_gather_object(values, value, group=self._group)
        return values

    def run_on_all(self, action: Callable[[], T]) -> list[T]:
        """Run `action` on every rank; the results in rank order, on every rank. Collective.

        Raises:
            Exception: When it fails on any rank, every rank raises the error of the first one that
                failed, so that none waits in a collective for a rank that has ended, and all end
                with the same exit code.
        """
        result, error = None, None
        try:
            result = action()
        except Exception as caught:
            error = caught
        # Also after an error: the other ranks are in, or on their way to, this collective.
        outcomes: list[Any] = self.gather((result, _portable(error)))
        first = next((failure for _, failure in outcomes if failure is not None), None)
        if first is not None:
            # This rank's own error, if any, stays visible as the cause.
            raise first from error
        return [value for value, _ in outcomes]

    def run_on_first(self, action: Callable[[], T]) -> T:
        """Run `action` on rank 0 alone; its result, or its error, on every rank. Collective.

        Raises:
            Exception: What `action` raised on rank 0.
        """
        results: list[Any] = self.run_on_all(lambda: action() if self.topology.rank == 0 else None)
        first: T = results[0]
        return first

    def barrier(self) -> None:
        """Wait for every rank. Collective."""
        self.gather(None)

    def start_sum(self, values: torch.Tensor) -> "PendingSum":
        """Start to sum a host tensor, of any shape, over the ranks, in place.

        Collective, but it does not wait for the other ranks.
        """
        work = None
        if self._group is not None:
            work = dist.all_reduce(values, group=self._group, async_op=True)
        return PendingSum(values, work)


class PendingSum:
    """A sum over the ranks that is under way."""

    def __init__(self, values: torch.Tensor, work: Any) -> None:
        self._values = values
        self._work = work

    def wait(self) -> torch.Tensor:
        """Wait for the other ranks; returns the sum, the same on all of them."""
        if self._work is not None:
            self._work.wait()
        return self._values


@contextmanager
def join_ranks(topology: Topology, stop: StopSignal) -> Iterator[Ranks]:
    """Join the ranks at MASTER_ADDR and MASTER_PORT, and leave them at the end.

    A rank that receives SIGTERM while it waits for the others exits immediately.

    Raises:
        StoppedError: The rank was asked to stop before it began to wait.
    """
    if topology.world_size == 1:
        yield Ranks(topology)
        return
    # Lightning uses the default group: NCCL for DDP's gradients, gloo for tensors on the host.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with heartbeat.waiting_for_peers(), stop.default_action():
        dist.init_process_group(
            backend,
            rank=topology.rank,
            world_size=topology.world_size,
            timeout=COLLECTIVE_TIMEOUT,
        )
    try:
        # A group of its own: in the default one, our collectives and Lightning's could interleave.
        yield Ranks(topology, dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT))
    finally:
        dist.destroy_process_group()


def _portable(error: Exception | None) -> Exception | None:
    """The error in a form that can be pickled for the other ranks."""
    if error is None:
        return None
    try:
        # Both ways: an exception whose __init__ takes other arguments fails when it is unpickled,
        # which would happen inside of the collective, on every rank.
        copy = pickle.loads(pickle.dumps(error))
    except Exception:  # an error's own __reduce__ and __init__ may raise anything
        copy = None
    same = type(copy) is type(error)
    return error if same else PeerError(f"{type(error).__name__}: {error}")
