"""Every running job is asked; a pod that does not answer holds up nobody else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

from dreambooth_operator.controller.decide.observed import Reading
from dreambooth_operator.controller.kube.snapshots import Key
from dreambooth_operator.controller.watch.poller import Poller
from dreambooth_operator.local.progress import ProgressUnavailableError, TrainerProgress

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
EVERY = 0.05
MUG, DOG = Key("team", "mug"), Key("team", "dog")


class Pods:
    """Trainers by address: the step that each tells."""

    def __init__(self, **steps: int) -> None:
        self.steps = steps
        self.asked: list[str] = []
        self.dead = threading.Event()

    def read(self, address: str, port: int, timeout: float) -> TrainerProgress:
        self.asked.append(address)
        if address == "dead":
            self.dead.wait(10)
        if address not in self.steps:
            raise ProgressUnavailableError(f"{address}:{port}: no route")
        told = {"stage": "Training", "step": self.steps[address], "totalSteps": 10}
        return TrainerProgress.model_validate(told)


def _run(pods: Pods, work: Callable[[Poller], Coroutine[Any, Any, None]]) -> list[Key]:
    heard: list[Key] = []

    def hear(key: Key, _: Reading) -> None:
        heard.append(key)

    async def together() -> None:
        poller = Poller(EVERY, lambda: NOW, hear, pods.read)
        asking = asyncio.create_task(poller.run())
        try:
            async with asyncio.timeout(10):
                await work(poller)
        finally:
            pods.dead.set()
            asking.cancel()
            await asyncio.wait({asking})

    asyncio.run(together())
    return heard


async def _reading(poller: Poller, key: Key) -> Reading:
    while (reading := poller.reading(key)) is None:
        await asyncio.sleep(0.01)
    return reading


def test_job_is_asked_at_once_and_again() -> None:
    pods = Pods(one=3)

    async def work(poller: Poller) -> None:
        poller.set_address(MUG, "one")
        reading = await _reading(poller, MUG)
        assert reading.progress is not None
        assert (reading.progress.step, reading.time, reading.address) == (3, NOW, "one")
        pods.steps["one"] = 4
        await asyncio.sleep(EVERY * 4)
        latest = poller.reading(MUG)
        assert latest is not None
        assert latest.progress is not None
        assert latest.progress.step == 4

    heard = _run(pods, work)
    assert len(heard) >= 2
    assert set(heard) == {MUG}


def test_following_the_same_address_again_does_not_ask_more_often() -> None:
    pods = Pods(one=3)

    async def work(poller: Poller) -> None:
        for _ in range(50):
            poller.set_address(MUG, "one")
        await _reading(poller, MUG)

    _run(pods, work)
    assert len(pods.asked) == 1


def test_no_answer_is_a_reading_that_says_why() -> None:
    async def work(poller: Poller) -> None:
        poller.set_address(MUG, "nowhere")
        reading = await _reading(poller, MUG)
        assert reading.progress is None
        assert "no route" in reading.problem

    _run(Pods(), work)


def test_dead_pod_holds_up_nobody() -> None:
    async def work(poller: Poller) -> None:
        poller.set_address(DOG, "dead")
        poller.set_address(MUG, "one")
        await _reading(poller, MUG)
        assert poller.reading(DOG) is None

    _run(Pods(one=3), work)


def test_answer_of_a_former_pod_is_dropped() -> None:
    pods = Pods(dead=9, one=3)

    async def work(poller: Poller) -> None:
        poller.set_address(MUG, "dead")
        while not pods.asked:
            await asyncio.sleep(0.01)
        poller.set_address(MUG, "one")
        assert poller.reading(MUG) is None
        pods.dead.set()
        reading = await _reading(poller, MUG)
        assert reading.address == "one"

    _run(pods, work)


def test_job_that_is_not_followed_any_more_is_not_asked() -> None:
    pods = Pods(one=3)

    async def work(poller: Poller) -> None:
        poller.set_address(MUG, "one")
        await _reading(poller, MUG)
        poller.set_address(MUG, None)
        assert poller.reading(MUG) is None
        asked = len(pods.asked)
        await asyncio.sleep(EVERY * 3)
        assert len(pods.asked) == asked

    _run(pods, work)
