"""The TCP ports of an attempt's pods."""

import hashlib
from dataclasses import dataclass

from dreambooth_api.contract.environment import DEFAULT_METRICS_PORT, DEFAULT_RENDEZVOUS_PORT
from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.models.pods.runtime import MAX_RANKS_PER_NODE

# Below the node ports (30000-32767) and the ephemeral ports of Linux (32768-60999).
FIRST_HOST_PORT, LAST_HOST_PORT = 20_000, 29_999
BLOCK = MAX_RANKS_PER_NODE + 1
"""Ports of one attempt on a node: one for each rank's metrics, and one for the rendezvous."""


@dataclass(frozen=True)
class PodPorts:
    """Where the pods of an attempt listen."""

    rendezvous: int
    """Port of torch's store, in rank 0's pod."""
    metrics: int
    """Port of the pod's first rank; rank i of the pod serves on this port + i."""


def pod_ports(job: DreamBoothJob, attempt: int) -> PodPorts:
    """The ports that the job names (spec.runtime.ports), and for the others the defaults.

    On the node's network the defaults are likely to be taken, 9400 by NVIDIA's dcgm-exporter for
    example. There they follow from job and attempt: two jobs on a node rarely share one, and the
    next attempt has others.
    """
    named = job.spec.runtime.ports
    rendezvous, metrics = DEFAULT_RENDEZVOUS_PORT, DEFAULT_METRICS_PORT
    if uses_host_network(job):
        identity = f"{job.metadata.uid or job.metadata.name}-{attempt}"
        number = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:4], "big")
        blocks = (LAST_HOST_PORT - FIRST_HOST_PORT + 1) // BLOCK
        rendezvous = FIRST_HOST_PORT + number % blocks * BLOCK
        metrics = rendezvous + 1
    rendezvous, metrics = named.rendezvous or rendezvous, named.metrics or metrics
    if rendezvous in range(metrics, metrics + MAX_RANKS_PER_NODE):  # one of them is not named
        if named.metrics:
            rendezvous = metrics - 1
        else:
            metrics = rendezvous + 1
    return PodPorts(rendezvous, metrics)


def uses_host_network(job: DreamBoothJob) -> bool:
    """Whether the pods share their node's network (core/v1 PodSpec.hostNetwork)."""
    # podOverrides is kept as the user wrote it, so every level may be missing.
    return bool(job.spec.runtime.pod_overrides.get("spec", {}).get("hostNetwork"))
