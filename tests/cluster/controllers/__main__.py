"""The controllers that a bare API server lacks: python -m tests.cluster.controllers --help."""

import argparse
import asyncio
import logging
import signal
from pathlib import Path

from tests.cluster.client import connect
from tests.cluster.controllers.events import Events
from tests.cluster.controllers.garbage import GarbageCollector
from tests.cluster.controllers.informer import Informers
from tests.cluster.controllers.jobs import JobController, TtlController
from tests.cluster.controllers.namespaces import NamespaceController
from tests.cluster.controllers.nodes import NodeLifecycle
from tests.cluster.controllers.pod_gc import PodGarbageCollector
from tests.cluster.controllers.scheduler import Scheduler

USER_AGENT = "dreambooth-test-controllers"


def main() -> None:
    """Run the controllers until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True, help="of the API server")
    parser.add_argument(
        "--node-grace-seconds",
        type=float,
        default=40,
        help="a node whose heartbeats stop is given up after this long (default: 40)",
    )
    parser.add_argument(
        "--node-quarantine-seconds",
        type=float,
        default=2,
        help="pods of a deleted node are given up after this long (default: 2)",
    )
    arguments = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s")
    asyncio.run(_until_stopped(arguments))


async def _until_stopped(arguments: argparse.Namespace) -> None:
    running = asyncio.create_task(_run(arguments))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    await asyncio.wait([running])
    if not running.cancelled():
        running.result()


async def _run(arguments: argparse.Namespace) -> None:
    grace, quarantine = arguments.node_grace_seconds, arguments.node_quarantine_seconds
    async with connect(arguments.kubeconfig, USER_AGENT) as client, asyncio.TaskGroup() as group:
        informers = Informers(client, group)
        events = Events(client)
        for controller in (
            events,
            JobController(client, informers, events),
            TtlController(client, informers),
            Scheduler(client, informers, events),
            NodeLifecycle(client, informers, events, grace),
            PodGarbageCollector(client, informers, events, quarantine),
            NamespaceController(client, informers),
            GarbageCollector(client, informers),
        ):
            group.create_task(controller.run())


if __name__ == "__main__":
    main()
