"""This machine as a node: the GPUs, cores, addresses and ports of pods that are processes."""

import hashlib
import os
import socket
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from dreambooth_api.contract.environment import DEFAULT_METRICS_PORT
from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.models.pods.runtime import Runtime, ranks_per_node, world_size
from dreambooth_operator.errors import UserError
from dreambooth_operator.manifests.ports import BLOCK, FIRST_HOST_PORT, LAST_HOST_PORT

MAX_PODS = 254
"""Host addresses of one /24 loopback network."""


def check_fits(job: DreamBoothJob) -> None:
    """Check that this machine has the pods and GPUs that the job asks for.

    Raises:
        UserError: It has fewer; the message names the field and the option to change it.
    """
    runtime = job.spec.runtime
    gpus = visible_gpus()
    if runtime.nodes > MAX_PODS:
        raise UserError(
            f"spec.runtime.nodes: one machine runs at most {MAX_PODS} pods, not {runtime.nodes};"
            " use --nodes"
        )
    if runtime.nodes * runtime.gpus_per_node > len(gpus):
        raise UserError(
            f"spec.runtime.gpusPerNode: {runtime.nodes} pods x {runtime.gpus_per_node} GPUs do not"
            f" fit on this machine, which has {len(gpus)} GPUs;"
            " change them with --nodes and --gpus (0 trains on the CPU)"
        )


def threads_per_rank(runtime: Runtime) -> int:
    """Threads of each rank (OMP_NUM_THREADS), at least 1.

    The ranks of all pods share the cores; more threads than cores would only wait for each other.
    """
    cores = os.cpu_count() or 1
    if sys.platform == "linux":  # a container or taskset may leave this process fewer
        cores = len(os.sched_getaffinity(0))
    return max(1, cores // world_size(runtime))


def visible_gpus() -> tuple[str, ...]:
    """NVIDIA GPUs that a new process would see, as CUDA_VISIBLE_DEVICES names them.

    Indices or UUIDs; from the variable, else from /dev, as loading CUDA takes seconds.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name for name in visible.split(",") if name.strip() not in ("", "-1"))
    # The devices are counted, and named from 0: the numbers in /dev may have gaps.
    devices = list(Path("/dev").glob("nvidia[0-9]*"))
    return tuple(str(index) for index in range(len(devices)))


def devices_per_pod(runtime: Runtime) -> tuple[str, ...]:
    """CUDA_VISIBLE_DEVICES of each pod: GPUs of its own, as a device plugin assigns them."""
    gpus, count = visible_gpus(), runtime.gpus_per_node
    return tuple(
        ",".join(gpus[index * count : (index + 1) * count]) for index in range(runtime.nodes)
    )


def loopback_addresses(count: int, seed: str) -> tuple[str, ...]:
    """A loopback address for each of `count` pods, in the order of their indices.

    `seed` selects one of the /24 networks in 127.0.0.0/8, so that two runs at a time rarely
    share addresses.

    Raises:
        UserError: An address cannot be bound, as on systems that answer on 127.0.0.1 only.
    """
    digest = hashlib.sha256(seed.encode()).digest()
    # Never 127.0, where other programs of this machine listen.
    network = f"127.{1 + digest[0] % 254}.{digest[1]}"
    addresses = tuple(f"{network}.{index + 1}" for index in range(count))
    for address in addresses:
        _check_bindable(address)
    return addresses


def _check_bindable(address: str) -> None:
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            raise UserError(
                f"cannot listen on the loopback address {address} ({error.strerror}). Linux answers"
                " on all of 127.0.0.0/8; other systems need the address added, on macOS with:"
                f" sudo ifconfig lo0 alias {address}"
            ) from error


def rendezvous_port(runtime: Runtime) -> int:
    """The TCP port that the job names, or a free one; another process may take it meanwhile.

    Raises:
        UserError: Something else listens on the port that the job names.
    """
    # Rank 0's store listens on all addresses.
    if named := runtime.ports.rendezvous:
        if not _are_free([("", named)]):
            raise _taken("rendezvous", f"port {named}")
        return named
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port


def metrics_port(runtime: Runtime, addresses: Sequence[str]) -> int:
    """The first of the ports, one for each rank of a pod, that are free on all addresses.

    Those that the job names; else those of a cluster or, where something listens on them, others.

    Raises:
        UserError: Something else listens on a port that the job names, or no ports are free.
    """
    count = ranks_per_node(runtime)

    def free(first: int) -> bool:
        return _are_free([(host, first + rank) for host in addresses for rank in range(count)])

    if named := runtime.ports.metrics:
        if not free(named):
            raise _taken("metrics", f"one of the {count} ports from {named} on")
        return named
    candidates: list[int] = [DEFAULT_METRICS_PORT, *range(FIRST_HOST_PORT, LAST_HOST_PORT, BLOCK)]
    for first in candidates:
        if free(first):
            return first
    raise UserError(f"no {count} TCP ports in a row are free; stop a program that listens")


def _taken(field: str, what: str) -> UserError:
    return UserError(
        f"spec.runtime.ports.{field}: {what} is in use on this machine; choose another port,"
        " or remove the field"
    )


def _are_free(places: Iterable[tuple[str, int]]) -> bool:
    """Whether a process could listen on each of these addresses and TCP ports."""
    for place in places:
        with socket.socket() as probe:
            # As the ranks' server does: connections of an earlier run that linger do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(place)
            except OSError:
                return False
    return True
