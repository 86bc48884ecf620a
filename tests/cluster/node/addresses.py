"""Addresses of pods on the loopback network: what a network plugin and DNS do in a cluster.

A pod's address is computed from its namespace and hostname alone. So any agent on this machine
knows the address behind a DNS name, and nothing has to be asked or remembered.
"""

from __future__ import annotations

import hashlib

from tests.cluster.client import Object

FIRST_PORT = 10_000
PORTS = 20_000
"""Rendezvous ports lie below the ports that Linux gives to those who do not mind which."""


def pod_address(namespace: str, hostname: str) -> str:
    """The pod's own loopback address, never in 127.0.0.0/16, where servers listen."""
    second, third, fourth = _digest(namespace, hostname)[:3]
    return f"127.{1 + second % 254}.{third}.{1 + fourth % 254}"


def rendezvous_port(namespace: str, hostname: str) -> int:
    """The port of torch's store on that pod.

    The store listens on every address, so jobs side by side on one machine need different ports.
    """
    return FIRST_PORT + int.from_bytes(_digest(namespace, hostname)[3:7], "big") % PORTS


def hostname(pod: Object) -> str:
    """The pod's name in the network."""
    found: str = pod["spec"].get("hostname") or pod["metadata"]["name"]
    return found


def peer(name: str, pod: Object) -> str | None:
    """Hostname of the pod that a DNS name means, as seen from `pod`; None for any other text.

    Known are `<hostname>.<subdomain>` of the pod's own headless Service, and that name with
    `.<namespace>`, `.svc` and `.cluster.local` behind it.
    """
    subdomain = pod["spec"].get("subdomain")
    if not subdomain:
        return None
    suffix = f".{subdomain}.{pod['metadata']['namespace']}.svc.cluster.local"
    host, _, rest = name.partition(".")
    known = {f".{subdomain}", suffix, suffix.removesuffix(".cluster.local")}
    known.add(suffix.removesuffix(".svc.cluster.local"))
    return host if host and f".{rest}" in known else None


def _digest(namespace: str, hostname: str) -> bytes:
    return hashlib.sha256(f"{namespace}/{hostname}".encode()).digest()
