"""The operator as a whole: its parts, and how they start and stop."""

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

from dreambooth_operator.controller.app.settings import LeaderElection, Settings
from dreambooth_operator.controller.decide.decide import decide
from dreambooth_operator.controller.decide.state.observed import Reading
from dreambooth_operator.controller.kube.client import Api
from dreambooth_operator.controller.kube.clock import ServerClock
from dreambooth_operator.controller.kube.kinds import Kind
from dreambooth_operator.controller.kube.leader import Leader, Lease
from dreambooth_operator.controller.kube.objects import Body, Key, identify
from dreambooth_operator.controller.kube.session import Session
from dreambooth_operator.controller.observability.health import HealthServer
from dreambooth_operator.controller.observability.job_metrics import MeasuredJob, count_gpu_pods
from dreambooth_operator.controller.observability.metrics import Measurements, Metrics
from dreambooth_operator.controller.observability.probes import Probes
from dreambooth_operator.controller.reconciler.execute import Executor
from dreambooth_operator.controller.reconciler.observe import Observer
from dreambooth_operator.controller.reconciler.worker import Worker
from dreambooth_operator.controller.watch import kopf_watch
from dreambooth_operator.controller.watch.cache import Cache
from dreambooth_operator.controller.watch.informer import Informer
from dreambooth_operator.controller.watch.poller import Poller
from dreambooth_operator.controller.watch.queue import Queue

logger = logging.getLogger(__name__)

# Less than Prometheus' scrape time-out of 10 s: the rest of the metrics is still delivered.
MEASURE_SECONDS = 2.0
"""How long a scrape waits for the event loop."""
RESTART_SECONDS = 2.0
"""Wait before the watches start again after kopf has given up."""


class Operator:
    """Watches, decides and acts until it is stopped.

    Create it in a running event loop: its queue and locks belong to that loop.
    """

    def __init__(self, settings: Settings, exit_at_once: Callable[[], None]) -> None:
        """`exit_at_once` must end the process: another may lead, or etcd was restored."""
        self._settings = settings
        self._exit_at_once = exit_at_once
        self._metrics = Metrics()
        # One clock for all times in statuses: the nodes' clocks may differ.
        clock = ServerClock()
        self._session = Session(clock, self._metrics.api_responded)
        self._api = Api(self._session)
        self._cache = Cache(clock.now, self._on_unreadable)
        self._queue: Queue[Key] = Queue()
        self._poller = Poller(settings.progress_seconds, clock.now, self._on_reading)
        self._informer = Informer(
            self._api,
            self._cache,
            self._queue,
            settings.namespaces,
            self._metrics.repaired,
            exit_at_once,
        )
        self._leader = _leader(self._api, settings.leader_election, clock)
        self._probes = Probes(self._session, self._informer.watches, settings.resync_seconds)
        ensure_leads = self._leader.ensure if self._leader else lambda: None
        self._worker = Worker(
            self._queue,
            Observer(self._api, self._cache, self._poller, settings.job_defaults),
            Executor(self._api, self._cache, clock.now, ensure_leads),
            self._poller,
            decide,
            settings.policy(),
            clock.now,
            self._metrics,
        )
        self._loop = asyncio.get_running_loop()
        self._metrics.measure_with(self._measure_from_thread)

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set.

        Raises:
            UserError: The API server's address is unknown, or the port of the metrics is taken.
        """
        server = HealthServer(
            self._settings.metrics_port,
            self._metrics.registry,
            self._probes.liveness,
            self._probes.readiness,
        )
        try:
            await self._session.load()
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._probes.run(self._api)),
                    group.create_task(self._poller.run()),
                ]
                if self._leader:
                    # Nothing is watched on standby: the cache would take memory for nothing.
                    await _run_until(stop, self._acquire(self._leader))
                    if self._leader.leads:
                        tasks.append(group.create_task(self._leader.hold(self._exit_at_once)))
                # No worker may act before everything has been listed: a child that is not in the
                # cache yet would count as deleted.
                await _run_until(stop, self._informer.list_all())
                if not stop.is_set():
                    self._metrics.set_leader(True)
                    tasks.append(
                        group.create_task(self._informer.run(self._settings.resync_seconds))
                    )
                    tasks += [
                        group.create_task(self._worker.run()) for _ in range(self._settings.workers)
                    ]
                # kopf ends its watches for good when a CRD is deleted; the operator waits for it to
                # come back.
                while not stop.is_set():
                    await self._watch(stop)
                for task in tasks:
                    task.cancel()
        finally:
            if self._leader:
                # All tasks that write have ended by now, so another process may lead.
                await self._leader.release()
            await self._api.close()
            server.close()

    async def _acquire(self, leader: Leader) -> None:
        self._probes.standing_by = True
        await leader.acquire()
        self._probes.standing_by = False

    async def _watch(self, stop: asyncio.Event) -> None:
        """Have kopf watch until `stop`, or until it gives up; then everything is listed again."""
        self._probes.watching = True
        try:
            async with self._session.connect() as client:
                await self._run_kopf(client, stop)
        except Exception as error:
            logger.error("watching ended: %s; everything is listed again", error)
        finally:
            self._probes.watching = False
        if not stop.is_set():
            await _run_until(stop, self._list_again())

    async def _run_kopf(self, client: aiohttp.ClientSession, stop: asyncio.Event) -> None:
        """Run kopf until `stop`; raises what it gives up for, such as a CRD that was deleted."""
        own_tasks = asyncio.all_tasks()  # kopf cancels all others when it ends
        tasks = await kopf.spawn_tasks(
            registry=kopf_watch.registry(self._informer, self._session.server, client),
            settings=kopf_watch.settings(),
            namespaces=self._settings.namespaces,
            clusterwide=not self._settings.namespaces,
            standalone=True,
            stop_flag=stop,
        )
        handle_signals(stop)  # kopf has replaced the handlers by its own
        logger.info("watching %s", ", ".join(self._settings.namespaces) or "all namespaces")
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            await kopf_watch.cancel_watchers()
        await kopf.run_tasks(tasks, ignored=own_tasks)

    async def _list_again(self) -> None:
        await asyncio.sleep(RESTART_SECONDS)
        await self._informer.list_all()

    def _on_unreadable(self, kind: Kind, body: Body, error: Exception) -> None:
        self._metrics.skipped(kind)
        which = identify(body)
        where = f"{which.namespace}/{which.name}" if which else "without a name"
        logger.warning("%s %s cannot be read and is passed over: %r", kind.name, where, error)

    def _on_reading(self, key: Key, reading: Reading) -> None:
        self._metrics.progress_polled(reading)
        self._queue.add(key)

    def _measure_from_thread(self) -> Measurements | None:
        """Measure in the event loop, for the health server; None if the loop is too busy."""
        future = asyncio.run_coroutine_threadsafe(self._measure(), self._loop)
        try:
            return future.result(timeout=MEASURE_SECONDS)
        except (TimeoutError, CancelledError):
            return None

    async def _measure(self) -> Measurements:
        now = time.monotonic()
        watches = self._informer.watches.items()
        return Measurements(
            jobs=[
                MeasuredJob(
                    job.key, job.summary, count_gpu_pods(self._cache.pods(job.key, job.uid))
                )
                for job in self._cache.dreambooth_jobs()
            ],
            queue_depth=self._queue.depth,
            queue_oldest_age=self._queue.oldest_age,
            watch_ages={kind.plural: now - watch.confirmed for kind, watch in watches},
            answer_age=self._probes.answer_age,
            namespaces_failing=self._informer.failing_namespaces,
        )


def handle_signals(stop: asyncio.Event) -> None:
    """Have SIGTERM and SIGINT set `stop`, in place of the running event loop's handlers."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


def _leader(api: Api, election: LeaderElection, clock: ServerClock) -> Leader | None:
    """This process's part in the election; None if there is no election."""
    if not election.enabled:
        return None
    lease = Lease(election.namespace, election.name, election.lease_seconds, election.renew_seconds)
    identity = f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"
    return Leader(api, lease, identity, clock.now)


async def _run_until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` to its end, or cancel it when `stop` is set."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not working.done():
        working.cancel()
        # To its end, so that nothing is written after the caller goes on.
        await asyncio.wait({working})
    elif error := working.exception():
        raise error
