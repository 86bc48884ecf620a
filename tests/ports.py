"""Ports for servers that cannot take port 0: none is handed out twice, nor taken meanwhile.

A port that the kernel chose and that is released again may become the port of somebody's outgoing
connection before the server binds it. These ports are below those that the kernel chooses
(net.ipv4.ip_local_port_range), and each worker of pytest-xdist has its own.
"""

from __future__ import annotations

import os
import random
import socket

_FIRST, _EACH, _WORKERS = 10_000, 2_500, 9
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
# Another run of the tests on this machine hardly begins at the same place.
_next = random.SystemRandom().randrange(_EACH)


def free_ports(count: int) -> list[int]:
    """Ports in a row that nothing listens on, on any address."""
    global _next
    for _ in range(_EACH):
        _next = (_next + 1) % (_EACH - count)
        first = _FIRST + _worker * _EACH + _next
        found = list(range(first, first + count))
        if all(_is_free(port) for port in found):
            _next += count - 1
            return found
    raise AssertionError(f"no {count} ports in a row are free")


def _is_free(port: int) -> bool:
    # An address of its own does not matter: trainers and rendezvous listen on all addresses.
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
