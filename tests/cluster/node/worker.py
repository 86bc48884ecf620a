"""One pod's life on its node: prepare, run, report, end."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from dreambooth_operator.local.kubelet import local_command, mount_volumes
from tests.cluster.client import TRANSIENT, ApiError, Client, Object
from tests.cluster.node.addresses import hostname, pod_address
from tests.cluster.node.container import Container
from tests.cluster.node.images import ImageProblem, image_problem
from tests.cluster.node.probe import watch_readiness
from tests.cluster.node.reporter import Reporter
from tests.cluster.node.settings import NodeSettings
from tests.cluster.node.sources import MissingError, Sources
from tests.cluster.node.status import PodState, running, terminated, timestamp, waiting

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
"""Wait before what is missing is looked for again."""
BACK_OFF_SECONDS = 1.0
"""From the first failed pull to ImagePullBackOff."""
SHORTEST_GRACE_SECONDS = 1.0
CANNOT_START = 128
"""Exit code of a container whose command is not there."""

Found = TypeVar("Found")


class CannotStartError(Exception):
    """The container's command cannot be executed."""


class Worker:
    """Runs one pod. `see` tells it what the API server says of the pod, `gone` that it is no more.

    A pod ends in one of three ways: by itself, by deletion (SIGTERM, then SIGKILL when its grace
    period is over; its object goes last), or at once when its object has vanished.
    """

    def __init__(self, client: Client, settings: NodeSettings, pod: Object) -> None:
        metadata = pod["metadata"]
        place = (metadata["namespace"], metadata["name"], metadata["uid"])
        self._settings = settings
        self._pod = pod
        self._name = f"{place[0]}/{place[1]}"
        self._container_spec = pod["spec"]["containers"][0]
        self._folder = settings.pod_folder(*place)
        self._log = settings.log(*place)
        self._sources = Sources(client, pod)
        self._reporter = Reporter(client, pod)
        self._state = PodState(pod, settings.address)
        self._deleted = asyncio.Event()
        self._deadline = float("inf")
        self._container: Container | None = None
        self._task = asyncio.create_task(self._run(), name=self._name)

    def see(self, pod: Object) -> None:
        """The pod as it is now on the API server."""
        metadata = pod["metadata"]
        if "deletionTimestamp" in metadata:
            grace = max(metadata.get("deletionGracePeriodSeconds", 0), SHORTEST_GRACE_SECONDS)
            self._deadline = min(self._deadline, time.monotonic() + grace)
            self._deleted.set()

    def gone(self) -> None:
        """The pod is no more: nothing of it may go on."""
        self._task.cancel()

    async def ended(self) -> None:
        """Return once nothing of the pod runs."""
        with suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        reporting = asyncio.create_task(self._reporter.run())
        try:
            if self._pod["status"].get("phase") not in ("Succeeded", "Failed"):
                await self._live_or_fail()
            await self._deleted.wait()
            await self._reporter.flush()
            await self._reporter.delete()
        finally:
            reporting.cancel()
            await self._clean_up()

    async def _live_or_fail(self) -> None:
        try:
            await self._live()
        except Exception as error:  # a pod that the agent cannot cope with says so, and can go
            log.exception("%s: the agent failed", self._name)
            self._state.refused = ("AgentFailed", repr(error))
        self._report()

    async def _live(self) -> None:
        """From the pod's arrival to the end of its container."""
        refusal = self._refusal()
        if refusal:
            self._state.refused = refusal
            self._reporter.event(refusal[0], refusal[1], warning=True)
            return
        self._report()
        try:
            self._container = await self._unless_deleted(self._prepare())
        except CannotStartError as error:
            self._state.state = terminated(CANNOT_START, timestamp(), str(error), "StartError")
            return
        if self._container is None:
            self._state.given_up = True
            return
        await self._run_container(self._container)

    def _refusal(self) -> tuple[str, str] | None:
        """Why this node does not run the pod, as a reason and a message."""
        spec = self._pod["spec"]
        if self._pod["status"].get("containerStatuses"):
            return "NodeRestarted", "The node's agent ended while the pod was on it"
        if spec["restartPolicy"] != "Never":
            policy = spec["restartPolicy"]
            return "UnsupportedPod", f"This node runs pods with restartPolicy Never, not {policy}"
        if len(spec["containers"]) > 1 or spec.get("initContainers"):
            return "UnsupportedPod", "This node runs pods with one container and no initContainers"
        if not any(self._container_spec.get(field) for field in ("command", "args")):
            return "UnsupportedPod", "This node's images only run their arguments: set `args`"
        if "httpGet" not in self._container_spec.get("readinessProbe", {"httpGet": {}}):
            return "UnsupportedPod", "This node asks for readiness by httpGet only"
        return None

    async def _prepare(self) -> Container:
        """Everything that comes before the process; waits for as long as something is missing."""
        contents = await self._until_found(self._sources.volumes, self._no_mount)
        namespace = self._pod["metadata"]["namespace"]
        self._state.address = pod_address(namespace, hostname(self._pod))
        self._report()
        await self._pull()
        spec = self._container_spec
        paths = mount_volumes(spec, contents, self._folder)
        environment = await self._until_found(
            lambda: self._sources.environment(
                spec, self._state.address, self._settings.address, paths
            ),
            self._no_config,
        )
        container = Container(
            command=local_command(spec, paths),
            environment=self._machine_environment() | environment,
            folder=self._folder,
            log=self._log,
            termination_log=paths[spec["terminationMessagePath"]],
            log_is_message=spec["terminationMessagePolicy"] == "FallbackToLogsOnError",
        )
        if container.executable is None:
            command = container.command[0]
            raise CannotStartError(f'exec: "{command}": executable file not found in $PATH')
        self._reporter.event("Created", f"Container created: {spec['name']}")
        return container

    def _machine_environment(self) -> dict[str, str]:
        """What an image would bring along. GPUs of this machine are not the pod's."""
        own = {"PATH": os.environ["PATH"], "HOME": str(self._folder), "CUDA_VISIBLE_DEVICES": ""}
        loopback = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
        return own | loopback | self._settings.environment

    async def _until_found(
        self, look: Callable[[], Awaitable[Found]], missing: Callable[[str], None]
    ) -> Found:
        """Poll `look` until it succeeds; report each new error once."""
        reported = ""
        while True:
            try:
                return await look()
            except MissingError as error:
                if str(error) != reported:
                    reported = str(error)
                    missing(reported)
            except ApiError as error:
                log.warning("%s: %s", self._name, error)
            except TRANSIENT as error:
                log.warning("%s: %s", self._name, error)
            await asyncio.sleep(RETRY_SECONDS)

    def _no_mount(self, message: str) -> None:
        self._reporter.event("FailedMount", message, warning=True)

    def _no_config(self, message: str) -> None:
        self._wait("CreateContainerConfigError", message)
        self._reporter.event("Failed", f"Error: {message}", warning=True)

    async def _pull(self) -> None:
        """Have the image. One that the node has not is waited for until the pod is deleted."""
        image, policy = self._container_spec["image"], self._container_spec["imagePullPolicy"]
        problem = image_problem(image, policy, self._settings.images)
        if problem is None:
            present = f'Container image "{image}" already present on machine'
            self._reporter.event("Pulled", present)
            return
        self._wait(problem.reason, problem.message)
        await self._fail_to_pull(image, problem)
        await asyncio.Event().wait()

    async def _fail_to_pull(self, image: str, problem: ImageProblem) -> None:
        if not problem.retried:
            reason = "InspectFailed" if problem.reason == "InvalidImageName" else problem.reason
            self._reporter.event(reason, problem.message, warning=True)
            return
        self._reporter.event("Pulling", f'Pulling image "{image}"')
        failed = f'Failed to pull image "{image}": {problem.message}'
        self._reporter.event("Failed", failed, warning=True)
        self._reporter.event("Failed", f"Error: {problem.reason}", warning=True)
        await asyncio.sleep(BACK_OFF_SECONDS)
        back_off = f'Back-off pulling image "{image}"'
        self._wait("ImagePullBackOff", f"{back_off}: {problem.reason}: {problem.message}")
        self._reporter.event("BackOff", back_off)

    async def _run_container(self, container: Container) -> None:
        self._state.process = await container.start()
        started_at = timestamp()
        self._state.state = running(started_at)
        self._state.ready = "readinessProbe" not in self._container_spec
        self._report()
        self._reporter.event("Started", f"Container started: {self._container_spec['name']}")
        helpers = [asyncio.create_task(self._stop_when_deleted(container))]
        if not self._state.ready:
            probing = watch_readiness(self._container_spec, self._state.address, self._probed)
            helpers.append(asyncio.create_task(probing))
        try:
            code = await container.wait()
        finally:
            for helper in helpers:
                helper.cancel()
        self._state.ready = False
        self._state.state = terminated(code, started_at, container.message(code))

    async def _stop_when_deleted(self, container: Container) -> None:
        await self._deleted.wait()
        self._reporter.event("Killing", f"Stopping container {self._container_spec['name']}")
        container.terminate()
        while time.monotonic() < self._deadline:  # a later deletion can shorten the grace period
            await asyncio.sleep(min(0.5, max(0.0, self._deadline - time.monotonic())))
        container.kill()

    def _probed(self, ready: bool, problem: str) -> None:
        self._state.ready = ready
        self._report()
        if not ready:
            self._reporter.event("Unhealthy", problem, warning=True)

    async def _unless_deleted(self, work: Coroutine[Any, Any, Found]) -> Found | None:
        """The work's result, or None when the pod is deleted first."""
        task = asyncio.create_task(work)
        deleted = asyncio.create_task(self._deleted.wait())
        try:
            await asyncio.wait([task, deleted], return_when=asyncio.FIRST_COMPLETED)
            return await task if task.done() else None
        finally:
            task.cancel()
            deleted.cancel()

    def _wait(self, reason: str, message: str) -> None:
        self._state.state = waiting(reason, message)
        self._report()

    def _report(self) -> None:
        self._reporter.status(self._state.report())

    async def _clean_up(self) -> None:
        """Leave no process and no files but the log."""
        if self._container is not None and self._container.started:
            self._container.kill()
            await self._container.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
