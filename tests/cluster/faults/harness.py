"""A simulated training job and its operator, with the faults that can be injected into both."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from tests.cluster.client import Object
from tests.cluster.fake_cluster import JOBS, PODS, FakeCluster
from tests.cluster.faults import progress_server
from tests.cluster.faults.gateway import Gateway
from tests.cluster.faults.progress_server import ProgressServer
from tests.cluster.node.addresses import pod_address
from tests.e2e.operator_process import Operator, answers

DREAMBOOTH_JOBS = "apis/dreambooth.dev/v1alpha1/namespaces/{}/dreamboothjobs"
EVENTS = "api/v1/namespaces/{}/events"
JOB_LABEL = "dreambooth.dev/job"
WAIT_SECONDS = 60.0
SETTLED_SECONDS = 3.0
"""Longer than anything that the operator of these tests repeats."""
SETTLING_ROUNDS = 3


@dataclass(frozen=True)
class Training:
    """What stays as it is while a job trains on: all by uid, and none of it asked to stop."""

    children: dict[str, str]
    """Jobs and pods."""
    attempts: tuple[int, ...]
    """Numbers of the attempts in the status; all but the last have ended."""
    counters: tuple[tuple[str, int], ...]
    """What the status counts."""


class Harness:
    """One namespace with the operator that watches it."""

    def __init__(
        self, cluster: FakeCluster, namespace: str, operator: Operator, gateway: Gateway
    ) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.operator = operator
        self.gateway = gateway
        self.progress_servers: dict[str, ProgressServer] = {}
        """The progress server of each training job."""
        self._stack = ExitStack()

    def close(self) -> None:
        """Stop the progress servers."""
        self._stack.close()

    # Jobs

    def create(self, name: str = "mug", **runtime: Any) -> Object:
        """Create a DreamBoothJob with two pods."""
        return self.cluster.create(DREAMBOOTH_JOBS.format(self.namespace), job(name, **runtime))

    def train(self, name: str = "mug", **runtime: Any) -> Training:
        """Create a job and bring it to the point where it trains and rank 0 reports progress."""
        self.create(name, **runtime)
        return self.start_training(name)

    def start_training(self, name: str = "mug") -> Training:
        """Bring an existing job to the point where it trains."""
        self.pass_preflight(name)
        self.wait_attempt(name, 0)
        return self.training(name)

    def pass_preflight(self, name: str = "mug") -> None:
        """Let the preflight succeed."""
        self.cluster.end(self.running_pods(f"{name}-preflight", 1)[0], 0)

    def wait_attempt(self, name: str, number: int) -> None:
        """Run an attempt with a responding rank 0 until the job's status reports it."""
        pods = self.running_pods(f"{name}-{number}", 2)
        if name in self.progress_servers:
            self.progress_servers.pop(name).__exit__(None, None, None)
        address = pod_address(self.namespace, pods[0]["metadata"]["name"])
        server = ProgressServer(address, number)
        server.progress["step"] = 7 + number
        self.progress_servers[name] = self._stack.enter_context(server)
        self.cluster.patch(
            f"{self.path('pods', pods[0]['metadata']['name'])}/status",
            {"status": {"podIP": address, "podIPs": [{"ip": address}]}},
        )
        self.wait(lambda: self.reports(name, number))

    def reports(self, name: str = "mug", number: int = 0) -> bool:
        """Whether the status reports the attempt as running, with rank 0's current step."""
        status = self.status(name)
        attempts = status.get("attempts", [])
        return bool(
            status.get("phase") == "Running"
            and status.get("progress", {}).get("step")
            == self.progress_servers[name].progress["step"]
            and attempts
            and attempts[-1]["number"] == number
            and "running" in attempts[-1]
        )

    def running_pods(self, batch_job: str, count: int) -> list[Object]:
        """The pods of a batch/v1 Job, once so many of them run."""

        def running() -> list[Object] | None:
            pods = self.cluster.pods(self.namespace, batch_job)
            alive = [pod for pod in pods if pod["status"].get("phase") == "Running"]
            return alive if len(alive) == count else None

        pods: list[Object] = self.wait(running)
        return pods

    # Reading

    def path(self, plural: str, name: str) -> str:
        """Path of an object of the core group."""
        return f"api/v1/namespaces/{self.namespace}/{plural}/{name}"

    def batch_path(self, name: str) -> str:
        """Path of a batch/v1 Job."""
        return f"{JOBS.format(self.namespace)}/{name}"

    def job_path(self, name: str = "mug") -> str:
        """Path of a DreamBoothJob."""
        return f"{DREAMBOOTH_JOBS.format(self.namespace)}/{name}"

    def job(self, name: str = "mug") -> Object:
        """A DreamBoothJob."""
        return self.cluster.get(self.job_path(name))

    def status(self, name: str = "mug") -> Object:
        """Its status; empty when it has none."""
        status: Object = self.job(name).get("status", {})
        return status

    def condition(self, kind: str, name: str = "mug") -> Object:
        """A condition by its type; empty when there is none."""
        conditions = self.status(name).get("conditions", [])
        return next((each for each in conditions if each["type"] == kind), {})

    def children(self, name: str = "mug") -> list[Object]:
        """Jobs and pods of a DreamBoothJob."""
        query = {"labelSelector": f"{JOB_LABEL}={name}"}
        jobs = self.cluster.items(JOBS.format(self.namespace), **query)
        return jobs + self.cluster.items(PODS.format(self.namespace), **query)

    def training(self, name: str = "mug") -> Training:
        """How the training of a job is now."""
        status = self.status(name)
        return Training(
            children={
                each["metadata"]["uid"]: each["metadata"]["name"]
                for each in self.children(name)
                if "deletionTimestamp" not in each["metadata"]
            },
            attempts=tuple(each["number"] for each in status.get("attempts", [])),
            counters=tuple(sorted(status.get("counters", {}).items())),
        )

    def events(self, name: str = "mug") -> list[str]:
        """The reasons of all events about a DreamBoothJob, in no order."""
        query = {"fieldSelector": f"involvedObject.name={name}"}
        events = self.cluster.items(EVENTS.format(self.namespace), **query)
        about = [each for each in events if each["involvedObject"]["kind"] == "DreamBoothJob"]
        return [each["reason"] for each in about]

    # Time

    def wait(self, look: Callable[[], Any], timeout: float = WAIT_SECONDS) -> Any:
        """As `FakeCluster.wait`; a failure shows the operator's log."""
        try:
            return self.cluster.wait(look, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.diagnostics()}") from None

    def settles(self, name: str = "mug") -> bool:
        """Whether writes to a job and events about it come to a stop."""
        for _ in range(SETTLING_ROUNDS):
            before = self._traces(name)
            self.cluster.sleep(SETTLED_SECONDS)
            if self._traces(name) == before:
                return True
        return False

    def _traces(self, name: str) -> tuple[str, int]:
        return self.job(name)["metadata"]["resourceVersion"], len(self.events(name))

    def diagnostics(self) -> str:
        """Diagnostics for a failed wait: the status of every object, and the end of the log."""
        jobs = self.cluster.items(DREAMBOOTH_JOBS.format(self.namespace))
        shown = jobs + [child for job in jobs for child in self.children(job["metadata"]["name"])]
        lines = [f"{each['metadata']['name']}: {json.dumps(each.get('status'))}" for each in shown]
        return "\n".join([*lines, self.operator.tail(30)])

    # The operator

    def start(self, operator: Operator | None = None) -> None:
        """Start the operator, or another one, and return once it is ready.

        Nodes live on meanwhile.
        """
        started = operator or self.operator
        started.launch()
        self.wait(lambda: answers(f"{started.url}/readyz"))

    def restart(self) -> None:
        """Kill the operator and start it again."""
        self.operator.kill()
        self.start()

    def probe(self, path: str) -> str:
        """The problem that /healthz or /readyz reports, or an empty string."""
        try:
            with urllib.request.urlopen(f"{self.operator.url}{path}", timeout=10) as answer:
                return "" if answer.read() == b"ok" else f"{path} returns more than ok"
        except urllib.error.HTTPError as error:
            with error:
                return error.read().decode() or f"{path} answers {error.code}"

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric of the operator over all series with these labels."""
        wanted = {f'{label}="{value}"' for label, value in labels.items()}
        series = re.findall(
            rf"^dreambooth_operator_{name}(?:{{(.*)}})? (.*)$", self.operator.metrics(), re.M
        )
        return sum(float(value) for has, value in series if wanted <= set(has.split(",")))

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop the operator's process (SIGSTOP) within the block."""
        self.operator.freeze()
        try:
            yield
        finally:
            self.operator.thaw()


def hasty(*waits: str) -> Sequence[str]:
    """A `program` of the operator with other waits, each `MODULE:CONSTANT=SECONDS`."""
    return ("tests.cluster.faults.hasty_operator", *waits)


def counters(**known: int) -> dict[str, int]:
    """`status.counters` with these, and zero for the others."""
    return dict.fromkeys(("failures", "disruptions", "preemptions", "stalls"), 0) | known


def job(name: str, **runtime: Any) -> Object:
    """A DreamBoothJob with two pods and short back-offs; `runtime` is merged into its spec."""
    return {
        "apiVersion": "dreambooth.dev/v1alpha1",
        "kind": "DreamBoothJob",
        "metadata": {"name": name},
        "spec": {
            "model": {"source": "s3://models/tiny-sd"},
            "subjects": [{"identifier": "sks", "classNoun": "mug", "images": "s3://images/mug"}],
            "output": "s3://results",
            "training": {"steps": 10},
            "runtime": {
                "nodes": 2,
                "gpusPerNode": 0,
                "restart": {"backoffSeconds": 1, "maxBackoffSeconds": 2},
                "ports": {"metrics": progress_server.PORT},
                **runtime,
            },
        },
    }
