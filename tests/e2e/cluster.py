"""What a scenario does to a cluster, and how it looks at it: one namespace, seen by kubectl."""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import yaml

from dreambooth_api.schema.base import KIND
from tests.cluster.client import Object
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubectl import Kubectl, KubectlError, eventually
from tests.cluster.nodes import Node
from tests.cluster.processes import tail
from tests.e2e.operator_process import Operator
from tests.e2e.storage import BUCKET, Storage

JOB_LABEL = "dreambooth.dev/job"
ATTEMPT_LABEL = "dreambooth.dev/attempt"
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
CHILDREN = "job,service,configmap"
"""What the operator makes for a job."""
TERMINAL = ("Succeeded", "Failed")
STRICTEST = {"pod-security.kubernetes.io/enforce": "restricted"}
"""Labels of every namespace: Kubernetes refuses pods that ask for more than they need."""
POLL_SECONDS = 0.3
LOG_LINES = 25
PLANE_LINES = 4


class UnmetError(AssertionError):
    """A wait timed out; the message holds the state of every object."""


@dataclass(frozen=True)
class Setup:
    """What all scenarios of a session share."""

    plane: ControlPlane
    nodes: Sequence[Node]
    """The session's own nodes; none where a real cluster has its own."""
    storage: Storage
    operator: Operator
    image: str
    runtime: Object
    """`spec.runtime` of every job: where the pods find the image."""


class Cluster:
    """One namespace of the cluster."""

    def __init__(self, setup: Setup, namespace: str) -> None:
        self.setup = setup
        self.namespace = namespace
        self.kubectl = Kubectl(setup.plane.kubeconfig, namespace)
        self.nodes = {node.name: node for node in setup.nodes}
        self.storage = setup.storage
        self.operator = setup.operator

    def apply(self, job: Object) -> None:
        """`kubectl apply` a job; raises `KubectlError` when it is refused."""
        self.kubectl("apply", "-f", "-", input=json.dumps(self.placed(job)))

    def placed(self, job: Object) -> Object:
        """The job with what leads its pods to where the trainer's image is."""
        runtime = self.setup.runtime | job["spec"]["runtime"]
        return job | {"spec": job["spec"] | {"runtime": runtime}}

    def patch(self, name: str, spec: Object) -> None:
        """Change a job's spec."""
        text = json.dumps({"spec": spec})
        self.kubectl("patch", "dreamboothjob", name, "--type=merge", f"--patch={text}")

    def suspend(self, name: str, suspend: bool = True) -> None:
        """Suspend a job, or let it go on."""
        self.patch(name, {"suspend": suspend})

    def delete(self, name: str) -> None:
        """Delete a job, without waiting for its pods."""
        self.kubectl("delete", "dreamboothjob", name, "--wait=false")

    def job(self, name: str) -> Object | None:
        """A DreamBoothJob as it is."""
        return self.kubectl.get("dreamboothjob", name)

    def jobs(self, name: str) -> list[Object]:
        """The batch/v1 Jobs of a DreamBoothJob."""
        return self.kubectl.objects("job", f"{JOB_LABEL}={name}")

    def pods(self, name: str) -> list[Object]:
        """The pods of a DreamBoothJob, by name: in the order of attempt and rank."""
        pods = self.kubectl.objects("pod", f"{JOB_LABEL}={name}")
        return sorted(pods, key=lambda pod: str(pod["metadata"]["name"]))

    def wait_pod(self, name: str, attempt: int, index: int = 0, timeout: float = 60) -> Object:
        """The pod of an attempt with that index, once its container runs."""
        labels = f"{JOB_LABEL}={name},{ATTEMPT_LABEL}={attempt},{INDEX_LABEL}={index}"
        until = time.monotonic() + timeout
        while True:
            for pod in self.kubectl.objects("pod", labels):
                if pod["status"].get("phase") == "Running":
                    return pod
            if time.monotonic() > until:
                raise UnmetError(
                    self.story(name, f"attempt {attempt} has no pod {index} that runs")
                )
            time.sleep(POLL_SECONDS)

    def wait(self, name: str, predicate: Callable[[Object], bool], timeout: float = 120) -> Object:
        """The job once the predicate holds; it is given the job, whose `status` is never missing.

        Raises `UnmetError` when it does not within `timeout` seconds, or never will: the job has
        ended
        or is gone.
        """
        until = time.monotonic() + timeout
        while True:
            job = self.job(name)
            if job is None:
                raise UnmetError(self.story(name, "the job is gone"))
            job.setdefault("status", {})
            if predicate(job):
                return job
            if job["status"].get("phase") in TERMINAL:
                raise UnmetError(
                    self.story(name, "the job has ended, and not as it was waited for")
                )
            if time.monotonic() > until:
                raise UnmetError(self.story(name, f"not within {timeout:.0f} s"))
            time.sleep(POLL_SECONDS)

    def wait_phase(self, name: str, *phases: str, timeout: float = 120) -> Object:
        """The job once it is in one of the phases."""
        return self.wait(name, lambda job: job["status"].get("phase") in phases, timeout)

    def wait_step(self, name: str, step: int, timeout: float = 120) -> Object:
        """The job once it has trained so many steps, as its status says."""
        return self.wait(
            name, lambda job: job["status"].get("progress", {}).get("step", 0) >= step, timeout
        )

    def wait_saved(self, name: str, step: int, timeout: float = 120) -> None:
        """Return as soon as a checkpoint of that step or a later one is in storage."""
        run, until = self.run(name), time.monotonic() + timeout
        while max(self.storage.checkpoints(run), default=-1) < step:
            if time.monotonic() > until:
                raise UnmetError(
                    self.story(name, f"no checkpoint of step {step} in {timeout:.0f} s")
                )
            time.sleep(POLL_SECONDS)

    def wait_attempt(self, name: str, number: int, timeout: float = 120) -> Object:
        """The job once all ranks of that attempt have joined."""
        return self.wait(
            name,
            lambda job: any(
                each["number"] == number and "running" in each
                for each in job["status"].get("attempts", [])
            ),
            timeout,
        )

    @contextmanager
    def watching(self, name: str) -> Iterator[list[tuple[str, str]]]:
        """Collect the phases and stages of a job, in the order in which a watch reports them.

        The list is complete when the block ends.
        """
        columns = r'--output=jsonpath={.status.phase},{.status.stage}{"\n"}'
        seen: list[tuple[str, str]] = []
        with self.kubectl.watching("dreamboothjob", name, columns) as lines:
            yield seen
        for line, _ in groupby(lines):
            phase, _, stage = line.strip().partition(",")
            seen.append((phase, stage))

    def events(self, name: str) -> list[tuple[str, str]]:
        """(reason, message) of the events about a DreamBoothJob, the oldest first."""
        events = [e for e in self.kubectl.events(name) if e["involvedObject"]["kind"] == KIND]
        events.sort(key=lambda event: str(event["metadata"]["creationTimestamp"]))
        return [(event["reason"], event["message"]) for event in events]

    def run(self, name: str) -> str:
        """The folder of a job's results in storage."""
        job = self.job(name)
        assert job is not None
        return f"s3://{BUCKET}/results/{self.namespace}/{name}/{job['metadata']['uid']}"

    def versions(self) -> dict[str, str]:
        """The version of everything of ours in the namespace, events too, by kind and name."""
        objects = json.loads(self.kubectl("get", f"dbj,{CHILDREN},pod,event", "--output=json"))
        return {
            f"{each['kind']}/{each['metadata']['name']}": each["metadata"]["resourceVersion"]
            for each in objects["items"]
        }

    def wait_gone(self, name: str, timeout: float = 60) -> None:
        """Return once the job and all its pods are no more."""
        until = time.monotonic() + timeout
        while self.job(name) is not None or self.pods(name):
            if time.monotonic() > until:
                raise UnmetError(self.story(name, f"still there after {timeout:.0f} s"))
            time.sleep(POLL_SECONDS)

    def pod_log(self, pod: str) -> str:
        """What a pod wrote, even when it is gone (on the session's own nodes)."""
        logs = [log for node in self.nodes.values() for log in node.logs(self.namespace, pod)]
        if logs or self.nodes:
            return "".join(log.read_text(errors="replace") for log in logs)
        return self.kubectl("logs", pod)

    def kill_rank(self, pod: Object, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the first rank of a pod, as the kernel does when memory runs out."""
        name = pod["metadata"]["name"]
        (launcher,) = self.node_of(pod).processes(self.namespace, name)
        assert eventually(lambda: bool(_children(launcher))), self.pod_log(name)
        os.kill(min(_children(launcher)), number)

    def evict(self, pod: str) -> None:
        """Evict a pod, as `kubectl drain` does."""
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": self.namespace},
        }
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/eviction"
        self.kubectl("create", "--raw", path, "-f", "-", input=json.dumps(eviction))

    def node_of(self, pod: Object) -> Node:
        """The node that a pod is on."""
        return self.nodes[pod["spec"]["nodeName"]]

    def clear(self) -> None:
        """Delete the namespace; what still runs in it is killed."""
        self.kubectl("delete", "namespace", self.namespace, "--wait=false")
        for node in self.nodes.values():
            for process in node.processes(self.namespace):
                with suppress(ProcessLookupError):
                    os.killpg(process, signal.SIGKILL)

    def story(self, name: str, problem: str) -> str:
        """Diagnostics for a failed wait."""
        job = self.job(name)
        parts = {
            f"{name}: {problem}": "",
            "status": yaml.safe_dump(job.get("status")) if job else "",
            "objects": self._look("get", "job,pod", "--output=wide"),
            "events": self._look("get", "events", "--sort-by=.metadata.creationTimestamp"),
            "operator": self.operator.tail(LOG_LINES),
        }
        planes = sorted(self.setup.plane.folder.glob("*.log"))
        parts |= {log.name: tail(log, PLANE_LINES) for log in planes}
        logs = [log for node in self.nodes.values() for log in node.logs(self.namespace)]
        parts |= {log.name: tail(log, LOG_LINES) for log in logs}
        return "\n".join(f"--- {title}\n{text}" for title, text in parts.items())

    def _look(self, *arguments: str) -> str:
        try:
            return self.kubectl(*arguments)
        except KubectlError as error:
            return str(error)


@contextmanager
def fresh_cluster(setup: Setup) -> Iterator[Cluster]:
    """The cluster, seen from a namespace that is there for so long, with the S3 secret."""
    cluster = Cluster(setup, f"e2e-{uuid.uuid4().hex[:8]}")
    Kubectl(setup.plane.kubeconfig).create_namespace(cluster.namespace, **STRICTEST)
    try:
        cluster.kubectl.create(setup.storage.secret)
        if setup.plane.real:  # it refuses pods before their service account is there
            account = ("serviceaccount", "default")
            assert eventually(lambda: cluster.kubectl.get(*account) is not None)
        yield cluster
    finally:
        cluster.clear()


def condition(job: Object, kind: str) -> Object:
    """The condition of that type; empty when there is none."""
    conditions = job["status"].get("conditions", [])
    return next((each for each in conditions if each["type"] == kind), {})


def _children(process: int) -> list[int]:
    text = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(child) for child in text.split()]
