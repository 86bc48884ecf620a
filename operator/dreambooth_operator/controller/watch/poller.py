"""Asks rank 0 of each running job how far it is."""

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from dreambooth_api.contract.environment import DEFAULT_METRICS_PORT
from dreambooth_operator.controller.decide.observed import Reading
from dreambooth_operator.controller.kube.clock import Now
from dreambooth_operator.controller.kube.snapshots import Key
from dreambooth_operator.controller.watch.queue import Queue
from dreambooth_operator.local.progress import (
    ProgressUnavailableError,
    TrainerProgress,
    read_progress,
)

ASKERS = 32
"""Pods that are asked at the same time. One that is dead holds up one asker for the timeout."""
TIMEOUT_SECONDS = 2.0

Heard = Callable[[Key, Reading], None]
"""Told of each reading."""


class Poller:
    """Keeps the latest reading of each job that is followed."""

    def __init__(
        self,
        every_seconds: float,
        now: Now,
        heard: Heard,
        read: Callable[[str, int, float], TrainerProgress] = read_progress,
    ) -> None:
        self._every = every_seconds
        self._now = now
        self._heard = heard
        self._read = read
        self._addresses: dict[Key, str] = {}
        self._readings: dict[Key, Reading] = {}
        self._due: Queue[Key] = Queue()
        self._threads = ThreadPoolExecutor(ASKERS, thread_name_prefix="progress")

    async def run(self) -> None:
        """Ask until cancelled; answers that are under way are not waited for then."""
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(ASKERS):
                    group.create_task(self._ask_forever(), name=f"progress {number}")
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def set_address(self, key: Key, address: str | None) -> None:
        """Ask the pod at this address, at once and then regularly; None: ask no more."""
        if self._addresses.get(key) == address:
            return
        self._readings.pop(key, None)
        if address is None:
            del self._addresses[key]
        else:
            self._addresses[key] = address
            self._due.add(key)

    def reading(self, key: Key) -> Reading | None:
        """The latest answer from the address that is followed now."""
        return self._readings.get(key)

    async def _ask_forever(self) -> None:
        while True:
            key = await self._due.get()
            address = self._addresses.get(key)
            if address is not None:
                await self._ask(key, address)
            self._due.done(key)
            if key in self._addresses:
                self._due.add(key, after=self._every)

    async def _ask(self, key: Key, address: str) -> None:
        ask = functools.partial(self._answer, address)
        reading = await asyncio.get_running_loop().run_in_executor(self._threads, ask)
        if self._addresses.get(key) == address:
            self._readings[key] = reading
            self._heard(key, reading)

    def _answer(self, address: str) -> Reading:
        try:
            progress = self._read(address, DEFAULT_METRICS_PORT, TIMEOUT_SECONDS)
        except ProgressUnavailableError as error:
            return Reading(self._now(), address, problem=str(error))
        return Reading(self._now(), address, progress)
