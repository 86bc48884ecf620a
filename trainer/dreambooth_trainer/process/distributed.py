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
"""Ranks may be far apart while one of them uploads or exports; those that hang are found by the
launcher's watchdog, long before."""


class PeerError(TrainerError):
    """An error of another rank that could not be sent as it is."""


class Ranks:
    """All ranks of the attempt; the same calls work for a single one."""

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
        outcomes: list[Any] = self.gather((result, _portable(error)))
        first = next((failure for _, failure in outcomes if failure is not None), None)
        if first is not None:
            raise first from error
        return [value for value, _ in outcomes]

    def run_on_first(self, action: Callable[[], T]) -> T:
        """Run `action` on rank 0 alone; its result, or its error, on every rank. Collective."""
        results: list[Any] = self.run_on_all(lambda: action() if self.topology.rank == 0 else None)
        first: T = results[0]
        return first

    def barrier(self) -> None:
        """Wait for every rank. Collective."""
        self.gather(None)

    def start_sum(self, values: torch.Tensor) -> "PendingSum":
        """Start to add a host tensor over the ranks. Collective, but does not wait for them."""
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
        """The sum, once all ranks have contributed."""
        if self._work is not None:
            self._work.wait()
        return self._values


@contextmanager
def join_ranks(topology: Topology, stop: StopSignal) -> Iterator[Ranks]:
    """Join the ranks at MASTER_ADDR and MASTER_PORT, and leave them at the end.

    A rank that is asked to stop while it waits for the others ends at once.
    """
    if topology.world_size == 1:
        yield Ranks(topology)
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with heartbeat.waiting_for_peers(), stop.default_action():
        dist.init_process_group(
            backend,
            rank=topology.rank,
            world_size=topology.world_size,
            timeout=COLLECTIVE_TIMEOUT,
        )
    try:
        yield Ranks(topology, dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT))
    finally:
        dist.destroy_process_group()


def _portable(error: Exception | None) -> Exception | None:
    """The error as it can be pickled for the other ranks."""
    if error is None:
        return None
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:  # an error's own __reduce__ and __init__ may raise anything
        copy = None
    same = type(copy) is type(error)
    return error if same else PeerError(f"{type(error).__name__}: {error}")
