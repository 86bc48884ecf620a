"""What this machine offers to the pods that run on it as processes."""

import hashlib
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.models.runtime import world_size
from dreambooth_operator.errors import UserError

MOST_PODS = 254
"""Addresses of one loopback network."""


@dataclass(frozen=True)
class Machine:
    """Cores, GPUs, addresses and a port for one run."""

    cores: int
    gpus: tuple[str, ...]
    """Names of the visible GPUs as CUDA_VISIBLE_DEVICES takes them."""
    addresses: tuple[str, ...]
    """A loopback address for each pod; Linux answers on all of 127.0.0.0/8."""
    rendezvous_port: int
    """torch's store listens on every address, so runs side by side need ports of their own."""


def check_fits(job: DreamBoothJob) -> None:
    """Raise `UserError` when the job asks for more than this machine has."""
    runtime = job.spec.runtime
    gpus = visible_gpus()
    if runtime.nodes > MOST_PODS:
        raise UserError(
            f"spec.runtime.nodes: {runtime.nodes} pods are too many for a machine; use --nodes"
        )
    if runtime.nodes * runtime.gpus_per_node > len(gpus):
        raise UserError(
            f"spec.runtime.gpusPerNode: {runtime.nodes} pods x {runtime.gpus_per_node} GPUs do not"
            f" fit on this machine, which has {len(gpus)};"
            " choose others with --nodes and --gpus (0: on the CPU)"
        )


def survey(job: DreamBoothJob, seed: str) -> Machine:
    """The machine for one attempt of a job that fits on it.

    `seed` spreads runs over the loopback network, so that two at a time do not meet.
    """
    return Machine(
        cores=usable_cores(),
        gpus=visible_gpus(),
        addresses=loopback_addresses(job.spec.runtime.nodes, seed),
        rendezvous_port=free_port(),
    )


def threads_per_process(machine: Machine, job: DreamBoothJob) -> int:
    """Cores for each rank; more threads than cores would only wait for each other."""
    return max(1, machine.cores // world_size(job.spec.runtime))


def usable_cores() -> int:
    """Cores that this process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus() -> tuple[str, ...]:
    """NVIDIA GPUs that a process started now would see, without loading CUDA."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return tuple(name for name in chosen.split(",") if name.strip() not in ("", "-1"))
    devices = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")]
    return tuple(str(index) for index in range(len(devices)))


def loopback_addresses(count: int, seed: str) -> tuple[str, ...]:
    """`count` loopback addresses that can be bound here; pod i gets number i."""
    digest = hashlib.sha256(seed.encode()).digest()
    network = f"127.{1 + digest[0] % 254}.{digest[1]}"
    addresses = tuple(f"{network}.{index + 1}" for index in range(count))
    for address in addresses:
        _check_address(address)
    return addresses


def _check_address(address: str) -> None:
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            raise UserError(
                f"cannot listen on the loopback address {address} ({error.strerror}). Linux answers"
                " on all of 127.0.0.0/8; on another system add it first, for example on macOS:"
                f" sudo ifconfig lo0 alias {address}"
            ) from error


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port
