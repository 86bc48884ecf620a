"""A local run listens where nothing else does, or says that it cannot."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from dreambooth_api.models.pods.runtime import Runtime
from dreambooth_operator.errors import UserError
from dreambooth_operator.local.host import metrics_port, rendezvous_port
from tests.ports import free_ports

ADDRESSES = ("127.77.0.1", "127.77.0.2")


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which another program listens at all addresses."""
    with socket.socket() as server:
        # Those around it are free as well.
        port = free_ports(6)[1]
        server.bind(("0.0.0.0", port))
        server.listen()
        yield port


def test_ports_in_use_are_passed_over(monkeypatch: pytest.MonkeyPatch, taken: int) -> None:
    monkeypatch.setattr("dreambooth_operator.local.host.DEFAULT_METRICS_PORT", taken - 1)
    runtime = Runtime(gpus_per_node=0, processes_per_node=3)
    first = metrics_port(runtime, ADDRESSES)
    assert taken not in range(first, first + 3)
    with ExitStack() as stack:
        for address in ADDRESSES:
            for rank in range(3):
                server = stack.enter_context(socket.socket())
                server.bind((address, first + rank))


def test_port_in_use_that_the_job_names_is_refused(taken: int) -> None:
    runtime = Runtime.model_validate({"ports": {"metrics": taken, "rendezvous": taken + 20}})
    with pytest.raises(UserError, match=f"spec.runtime.ports.metrics: .* {taken} on is in use"):
        metrics_port(runtime, ADDRESSES)
    runtime = Runtime.model_validate({"ports": {"rendezvous": taken}})
    with pytest.raises(UserError, match=f"spec.runtime.ports.rendezvous: port {taken} is in use"):
        rendezvous_port(runtime)


def test_named_ports_are_used() -> None:
    free = rendezvous_port(Runtime())
    runtime = Runtime.model_validate({"ports": {"rendezvous": free}})
    assert rendezvous_port(runtime) == free
