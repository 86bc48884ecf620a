"""The ranks of one attempt: joining them, and exchanging small objects on the host.

Host collectives go over gloo even where gradients go over NCCL, so they never wait for the device.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from dreambooth_trainer.process import heartbeat
from dreambooth_trainer.process.signals import StopSignal
from dreambooth_trainer.process.topology import Topology

T = TypeVar("T")

PATIENCE = timedelta(hours=2)
"""Longest wait in a collective. Ranks may be far apart while one of them uploads or exports;
hung ranks are the stall watchdog's business."""


class Ranks:
    """All ranks of the attempt; the same calls work for a rank alone."""

    def __init__(self, topology: Topology, host_group: Any = None) -> None:
        self.topology = topology
        self._group = host_group

    def gather(self, value: T) -> list[T]:
        """The value of every rank, in rank order, on every rank."""
        if self._group is None:
            return [value]
        values: list[Any] = [None] * self.topology.world_size
        with heartbeat.waiting_for_peers():
            dist.all_gather_object(values, value, group=self._group)
        return values

    def from_first(self, value: T | None) -> T:
        """Rank 0's value on every rank."""
        first = self.gather(value)[0]
        assert first is not None
        return first

    def barrier(self) -> None:
        """Wait for every rank."""
        self.gather(None)

    def sum_later(self, values: torch.Tensor) -> "Pending":
        """Start to add a host tensor over the ranks; the result is fetched later, so nobody
        waits.
        """
        work = None
        if self._group is not None:
            work = dist.all_reduce(values, group=self._group, async_op=True)
        return Pending(values, work)


class Pending:
    """A sum over the ranks that is under way."""

    def __init__(self, values: torch.Tensor, work: Any) -> None:
        self._values = values
        self._work = work

    def wait(self) -> torch.Tensor:
        """The sum."""
        if self._work is not None:
            self._work.wait()
        return self._values


@contextmanager
def joined(topology: Topology, stop: StopSignal) -> Iterator[Ranks]:
    """Join the ranks by the environment's MASTER_ADDR and MASTER_PORT, leave them at the end.

    Who is asked to stop while it waits for the others ends at once.
    """
    if topology.world_size == 1:
        yield Ranks(topology)
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with heartbeat.waiting_for_peers(), stop.default_action():
        dist.init_process_group(
            backend, rank=topology.rank, world_size=topology.world_size, timeout=PATIENCE
        )
    try:
        yield Ranks(topology, dist.new_group(backend="gloo", timeout=PATIENCE))
    finally:
        dist.destroy_process_group()
