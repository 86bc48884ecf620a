"""The operator as a whole: its parts, how they start, and how they stop."""

import asyncio
import logging
import signal
import socket
import time
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any

import aiohttp
import kopf

from dreambooth_operator.controller.app.settings import Settings
from dreambooth_operator.controller.decide.decide import decide
from dreambooth_operator.controller.decide.observed import Reading
from dreambooth_operator.controller.kube.client import Api
from dreambooth_operator.controller.kube.clock import ServerClock
from dreambooth_operator.controller.kube.leader import Leader
from dreambooth_operator.controller.kube.session import Session
from dreambooth_operator.controller.kube.snapshots import Key
from dreambooth_operator.controller.observability.health import HealthServer
from dreambooth_operator.controller.observability.job_metrics import MeasuredJob, training
from dreambooth_operator.controller.observability.liveness import Vitals
from dreambooth_operator.controller.observability.metrics import Measurements, Metrics
from dreambooth_operator.controller.reconciler.executor import Cluster
from dreambooth_operator.controller.reconciler.worker import Worker
from dreambooth_operator.controller.watch import handlers
from dreambooth_operator.controller.watch.cache import Cache, DreamBoothJobSnapshot
from dreambooth_operator.controller.watch.informer import Informer
from dreambooth_operator.controller.watch.poller import Poller
from dreambooth_operator.controller.watch.queue import Queue

logger = logging.getLogger(__name__)

SNAPSHOT_SECONDS = 2.0
RESTART_SECONDS = 2.0
"""Wait before watching begins anew after kopf gave up."""


class Operator:
    """Watches, decides and acts until it is told to stop. Make it in a running event loop."""

    def __init__(self, settings: Settings, lost_lease: Callable[[], None]) -> None:
        self._settings = settings
        self._lost_lease = lost_lease
        self._metrics = Metrics()
        clock = ServerClock()
        self._session = Session(clock, self._metrics.answered)
        self._api = Api(self._session)
        self._cache = Cache(clock.now)
        self._queue: Queue[Key] = Queue()
        self._poller = Poller(settings.progress_seconds, clock.now, self._heard)
        self._informer = Informer(
            self._api, self._cache, self._queue, settings.namespaces, self._metrics.repaired
        )
        identity = f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"
        self._leader = Leader(self._api, settings.leader_election, identity, clock.now)
        self._vitals = Vitals(self._session, self._informer.watches, settings.resync_seconds)
        cluster = Cluster(
            self._api,
            self._cache,
            self._poller,
            clock.now,
            self._leader.ensure,
            settings.job_defaults,
        )
        self._worker = Worker(
            self._queue,
            cluster,
            self._poller,
            decide,
            settings.policy(),
            clock.now,
            self._metrics,
        )
        self._loop = asyncio.get_running_loop()
        self._metrics.show(self._snapshot)

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set. Raises `UserError` when the API server's address is unknown."""
        vitals = self._vitals
        server = HealthServer(
            self._settings.metrics_port, self._metrics.registry, vitals.alive, vitals.ready
        )
        try:
            await self._session.load()
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._vitals.run(self._api)),
                    group.create_task(self._poller.run()),
                ]
                if self._settings.leader_election.enabled:
                    await self._until(stop, self._acquire())
                if self._leader.leads:
                    tasks.append(group.create_task(self._leader.hold(self._lost_lease)))
                await self._until(stop, self._informer.list_all())
                if not stop.is_set():
                    self._metrics.leads(True)
                    tasks += [group.create_task(part) for part in self._acting()]
                while not stop.is_set():
                    await self._watch(stop)
                for task in tasks:
                    task.cancel()
        finally:
            await self._leader.release()
            await self._api.close()
            server.close()

    async def _acquire(self) -> None:
        self._vitals.standing_by = True
        await self._leader.acquire()
        self._vitals.standing_by = False

    def _acting(self) -> list[Coroutine[Any, Any, None]]:
        """What runs once this process leads and everything is known."""
        workers = [self._worker.run() for _ in range(self._settings.workers)]
        return [*workers, self._informer.run(self._settings.resync_seconds)]

    async def _watch(self, stop: asyncio.Event) -> None:
        """Have kopf watch until `stop`, or until it gives up; then everything is listed anew."""
        self._vitals.watching = True
        try:
            async with self._session.connect() as client:
                await self._run_kopf(client, stop)
        except Exception as error:
            logger.error("watching ended: %s; everything is listed anew", error)
        finally:
            self._vitals.watching = False
        if not stop.is_set():
            await self._until(stop, self._list_again())

    async def _run_kopf(self, client: aiohttp.ClientSession, stop: asyncio.Event) -> None:
        """Run kopf until `stop`; raises what it gives up for, such as a CRD that was deleted."""
        ours = asyncio.all_tasks()  # kopf cancels all others when it ends
        tasks = await kopf.spawn_tasks(
            registry=handlers.registry(self._informer, self._session.server, client),
            settings=handlers.settings(),
            namespaces=self._settings.namespaces,
            clusterwide=not self._settings.namespaces,
            standalone=True,
            stop_flag=stop,
        )
        handle_signals(stop)  # as kopf has set its own
        logger.info("watching %s", ", ".join(self._settings.namespaces) or "all namespaces")
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            await handlers.end_watchers()
        await kopf.run_tasks(tasks, ignored=ours)

    async def _list_again(self) -> None:
        await asyncio.sleep(RESTART_SECONDS)
        await self._informer.list_all()

    @staticmethod
    async def _until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
        """Await `work`, but no longer than until `stop`."""
        working, stopped = asyncio.create_task(work), asyncio.create_task(stop.wait())
        await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait({working})
        elif error := working.exception():
            raise error

    def _heard(self, key: Key, reading: Reading) -> None:
        self._metrics.heard(key, reading)
        self._queue.add(key)

    def _snapshot(self) -> Measurements | None:
        """Measured in the event loop, for another thread; None when it does not answer soon."""
        future = asyncio.run_coroutine_threadsafe(self._measure(), self._loop)
        try:
            return future.result(timeout=SNAPSHOT_SECONDS)
        except (TimeoutError, CancelledError):
            return None

    async def _measure(self) -> Measurements:
        now = time.monotonic()
        return Measurements(
            jobs=[self._job(record) for record in self._cache.dreambooth_jobs()],
            queue_depth=self._queue.depth,
            queue_oldest_seconds=self._queue.oldest_age,
            watch_seconds={
                kind.plural: now - watch.confirmed for kind, watch in self._informer.watches.items()
            },
            answer_seconds=self._vitals.silence,
        )

    def _job(self, record: DreamBoothJobSnapshot) -> MeasuredJob:
        pods = self._cache.pods(record.key, record.uid)
        return MeasuredJob(record.key, record.summary, training(pods))


def handle_signals(stop: asyncio.Event) -> None:
    """Have SIGTERM and SIGINT set `stop`."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
