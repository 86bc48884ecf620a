"""Every running job is polled; a pod that answers slowly, or wrongly, affects no other job."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import pytest

from dreambooth_api.contract.progress import MAX_BYTES
from dreambooth_operator.controller.decide.state.observed import Reading
from dreambooth_operator.controller.kube.objects import Key
from dreambooth_operator.controller.watch import poller as poller_module
from dreambooth_operator.controller.watch.poller import CONCURRENCY, Poller

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
EVERY = 0.05
MUG, DOG = Key("team", "mug"), Key("team", "dog")
FIRST, SECOND = "127.0.0.1", "127.0.0.2"
"""Addresses of two pods: all of 127.0.0.0/8 is loopback."""

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


def http(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    """An HTTP response."""
    return f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


def progress(step: int, **fields: Any) -> bytes:
    """A trainer's answer to GET /progress."""
    return json.dumps({"stage": "Training", "step": step, "totalSteps": 10, **fields}).encode()


def sends(data: bytes) -> Answer:
    """Answer with these bytes at once."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return answer


async def trickles(writer: asyncio.StreamWriter) -> None:
    """Answer with one byte each half second: no single read ever takes long."""
    for byte in http(progress(1)):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.5)


async def never(writer: asyncio.StreamWriter) -> None:
    """Accept the connection and send nothing."""
    await asyncio.sleep(60)


class Pods:
    """Rank 0 of jobs, by IP address, all on the same port."""

    def __init__(self, answers: dict[str, Answer]) -> None:
        self.answers = answers
        self.requests: list[str] = []
        self.port = 0
        self._stack = AsyncExitStack()
        self._connections: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Pods:
        for address in self.answers:
            server = await asyncio.start_server(self._serve, address, self.port)
            self.port = server.sockets[0].getsockname()[1]
            self._stack.callback(server.close)
        return self

    def at(self, address: str) -> str:
        """Host and port of the pod with this IP address."""
        return f"[{address}]:{self.port}" if ":" in address else f"{address}:{self.port}"

    async def __aexit__(self, *_: object) -> None:
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._stack.aclose()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await reader.readuntil(b"\r\n\r\n")
            address = writer.get_extra_info("sockname")[0]
            self.requests.append(address)
            await self.answers[address](writer)
        except (ConnectionError, asyncio.CancelledError, asyncio.IncompleteReadError):
            pass
        finally:
            self._connections.discard(task)
            writer.close()


def run(
    answers: dict[str, Answer], work: Callable[[Poller, Pods], Coroutine[Any, Any, None]]
) -> list[Key]:
    """Run a poller against these pods; returns the keys of its readings."""
    read: list[Key] = []

    async def with_poller() -> None:
        async with Pods(answers) as pods:
            poller = Poller(EVERY, lambda: NOW, lambda key, _: read.append(key))
            polling = asyncio.create_task(poller.run())
            try:
                async with asyncio.timeout(20):
                    await work(poller, pods)
            finally:
                polling.cancel()
                await asyncio.wait({polling})

    asyncio.run(with_poller())
    return read


async def next_reading(poller: Poller, key: Key) -> Reading:
    """The first reading of a key."""
    while (reading := poller.reading(key)) is None:
        await asyncio.sleep(0.01)
    return reading


async def problem_of(poller: Poller, address: str) -> str:
    """Why the answer from this address cannot be used."""
    poller.set_address(MUG, address)
    reading = await next_reading(poller, MUG)
    assert reading.progress is None
    return reading.problem


def test_job_is_polled_at_once_and_regularly() -> None:
    async def work(poller: Poller, pods: Pods) -> None:
        poller.set_address(MUG, pods.at(FIRST))
        reading = await next_reading(poller, MUG)
        assert reading.progress is not None
        assert (reading.progress.step, reading.time, reading.address) == (3, NOW, pods.at(FIRST))
        pods.answers[FIRST] = sends(http(progress(4, failedSaves=2, saveProblem="bucket is full")))
        while (latest := await next_reading(poller, MUG)).progress == reading.progress:
            await asyncio.sleep(0.01)
        assert latest.progress is not None
        assert (latest.progress.step, latest.progress.failed_saves) == (4, 2)
        assert latest.progress.save_problem == "bucket is full"

    read = run({FIRST: sends(http(progress(3)))}, work)
    assert len(read) >= 2
    assert set(read) == {MUG}


def test_pod_with_an_ipv6_address_is_polled() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 on loopback")

    async def work(poller: Poller, pods: Pods) -> None:
        poller.set_address(MUG, pods.at("::1"))
        assert (await next_reading(poller, MUG)).progress is not None

    run({"::1": sends(http(progress(3)))}, work)


def test_setting_the_same_address_again_does_not_poll_more_often() -> None:
    async def work(poller: Poller, pods: Pods) -> None:
        for _ in range(50):
            poller.set_address(MUG, pods.at(FIRST))
        await next_reading(poller, MUG)
        assert len(pods.requests) == 1

    run({FIRST: sends(http(progress(3)))}, work)


def test_pod_that_refuses_the_connection_is_a_reading_with_a_problem() -> None:
    async def work(poller: Poller, pods: Pods) -> None:
        assert "127.0.0.3" in await problem_of(poller, pods.at("127.0.0.3"))

    run({FIRST: sends(b"")}, work)


@pytest.mark.parametrize(
    ("data", "problem", "unreadable"),
    [
        (b"", "Server disconnected", False),
        (b"\x00" * 100, "400", False),
        (http(b"{}", "503 Service Unavailable"), "HTTP status 503", False),
        (http(b"", "302 Found", "Location: http://127.0.0.2/\r\n"), "HTTP status 302", False),
        (http(b"not json"), "Invalid JSON", True),
        (http(b"[" * 100_000), "Invalid JSON", True),
        (http(progress(-1)), "step: ", True),
        (http(progress(3, stage="Dreaming")), "stage: ", True),
        (http(progress(3, version=999)), "version 999 of the contract", True),
        (http(b" " * (MAX_BYTES + 1)), f"longer than {MAX_BYTES} bytes", True),
        (http(progress(3), headers="X: " + "x" * 100_000 + "\r\n"), "400", False),
        (http(progress(3), headers="Content-Encoding: gzip\r\n"), "", False),
    ],
)
def test_unusable_answer_is_a_reading_that_names_the_problem(
    data: bytes, problem: str, unreadable: bool
) -> None:
    async def work(poller: Poller, pods: Pods) -> None:
        if problem:
            found = await problem_of(poller, pods.at(FIRST))
            assert problem in found
            assert len(found) < 1000
            reading = poller.reading(MUG)
            assert reading is not None
            assert reading.unreadable is unreadable
        else:
            poller.set_address(MUG, pods.at(FIRST))
            assert (await next_reading(poller, MUG)).progress is not None

    run({FIRST: sends(data)}, work)


@pytest.mark.parametrize("answer", [trickles, never])
def test_slow_pod_takes_no_longer_than_the_time_out(
    answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poller_module, "TIMEOUT_SECONDS", 0.8)

    async def work(poller: Poller, pods: Pods) -> None:
        started = time.monotonic()
        assert (
            await problem_of(poller, pods.at(FIRST))
            == f"{FIRST}:{pods.port}: no answer within 0.8 s"
        )
        assert time.monotonic() - started < 5

    run({FIRST: answer}, work)


def test_many_slow_pods_hold_up_no_other_job() -> None:
    async def work(poller: Poller, pods: Pods) -> None:
        for number in range(CONCURRENCY // 2):
            poller.set_address(Key("slow", str(number)), pods.at(FIRST))
        poller.set_address(MUG, pods.at(SECOND))
        assert (await next_reading(poller, MUG)).progress is not None
        assert poller.reading(Key("slow", "0")) is None

    run({FIRST: trickles, SECOND: sends(http(progress(3)))}, work)


def test_pod_that_does_not_answer_is_asked_less_often() -> None:
    async def requests(pods: Pods, address: str, count: int) -> None:
        while pods.requests.count(address) < count:
            await asyncio.sleep(0.01)

    async def work(poller: Poller, pods: Pods) -> None:
        poller.set_address(Key("broken", "mug"), pods.at(FIRST))
        poller.set_address(MUG, pods.at(SECOND))
        await requests(pods, SECOND, 40)
        assert pods.requests.count(FIRST) <= 20
        # Once it answers, it is asked as often as the others.
        pods.answers[FIRST] = sends(http(progress(3)))
        while (await next_reading(poller, Key("broken", "mug"))).progress is None:
            await asyncio.sleep(0.01)
        pods.requests.clear()
        await requests(pods, SECOND, 20)
        assert pods.requests.count(FIRST) >= 10

    run(
        {FIRST: sends(http(b"", "500 Internal Server Error")), SECOND: sends(http(progress(3)))},
        work,
    )


def test_cancelling_the_poller_ends_requests_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller_module, "TIMEOUT_SECONDS", 60)

    async def work(poller: Poller, pods: Pods) -> None:
        again = Poller(EVERY, lambda: NOW, lambda *_: None)
        polling = asyncio.create_task(again.run())
        for number in range(CONCURRENCY):
            again.set_address(Key("slow", str(number)), pods.at(FIRST))
        while len(pods.requests) < CONCURRENCY:
            await asyncio.sleep(0.01)
        started = time.monotonic()
        polling.cancel()
        await asyncio.wait({polling})
        assert time.monotonic() - started < 20

    run({FIRST: never}, work)


def test_answer_of_a_former_pod_is_dropped() -> None:
    async def work(poller: Poller, pods: Pods) -> None:
        released = asyncio.Event()

        async def late(writer: asyncio.StreamWriter) -> None:
            await released.wait()
            await sends(http(progress(9)))(writer)

        pods.answers[FIRST] = late
        poller.set_address(MUG, pods.at(FIRST))
        while not pods.requests:
            await asyncio.sleep(0.01)
        poller.set_address(MUG, pods.at(SECOND))
        assert poller.reading(MUG) is None
        released.set()
        assert (await next_reading(poller, MUG)).address == pods.at(SECOND)

    run({FIRST: never, SECOND: sends(http(progress(3)))}, work)


def test_job_without_an_address_is_not_polled() -> None:
    async def work(poller: Poller, pods: Pods) -> None:
        poller.set_address(MUG, pods.at(FIRST))
        await next_reading(poller, MUG)
        poller.set_address(MUG, None)
        assert poller.reading(MUG) is None
        before = len(pods.requests)
        await asyncio.sleep(EVERY * 3)
        assert len(pods.requests) == before

    run({FIRST: sends(http(progress(3)))}, work)
