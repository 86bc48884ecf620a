"""One user's object harms only itself: every other job is observed and decided about as before."""

from __future__ import annotations

import asyncio
import copy
import json
from datetime import UTC, datetime
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dreambooth_api.contract.progress import Progress, UnreadableProgressError
from dreambooth_api.models.status import Status
from dreambooth_api.parsing.load import parse
from dreambooth_operator.controller.decide.decide import decide
from dreambooth_operator.controller.decide.state.decision import Decision
from dreambooth_operator.controller.decide.state.observed import Observed, Policy, Reading
from dreambooth_operator.controller.kube import errors
from dreambooth_operator.controller.kube.client import Api, Page
from dreambooth_operator.controller.kube.clock import ServerClock
from dreambooth_operator.controller.kube.kinds import DREAMBOOTH_JOB, JOB, POD, WATCHED, Kind
from dreambooth_operator.controller.kube.objects import Key
from dreambooth_operator.controller.kube.session import Session
from dreambooth_operator.controller.observability.job_metrics import (
    MeasuredJob,
    collect,
    count_gpu_pods,
)
from dreambooth_operator.controller.reconciler.codec import encode_status
from dreambooth_operator.controller.reconciler.execute import Executor
from dreambooth_operator.controller.reconciler.observe import Observer
from dreambooth_operator.controller.reconciler.worker import Worker
from dreambooth_operator.controller.watch.cache import Cache
from dreambooth_operator.controller.watch.informer import Informer
from dreambooth_operator.controller.watch.poller import Poller
from dreambooth_operator.controller.watch.queue import Queue
from dreambooth_operator.manifests.resources import attempt_objects
from tests.operator.controller.loops import run
from tests.operator.controller.parts import job_body
from tests.operator.controller.world import running

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
KINDS = {kind.name: kind for kind in WATCHED}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**14)
    | st.just("9" * 63)
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


class Server(Api):
    """An API server in memory: lists what a test puts into it, and accepts every write."""

    def __init__(self) -> None:
        super().__init__(Session(ServerClock(), lambda *_: None))
        self.objects: dict[Kind, list[Any]] = {kind: [] for kind in WATCHED}
        self.forbidden: set[str | None] = set()
        self.created: list[tuple[str, str, str]] = []
        self.version_now = 1000
        self.bodies = {
            ("team-a", "theirs"): dreambooth_job("team-a", "theirs"),
            ("team-b", "ours"): dreambooth_job("team-b", "ours"),
        }

    async def get(self, kind: Kind, namespace: str, name: str) -> Any:
        raise errors.NotFoundError(f"GET {kind.path(namespace, name)}")

    async def pages(self, kind: Kind, namespace: str | None) -> Any:
        if namespace in self.forbidden:
            raise errors.ForbiddenError(f"GET {kind.path(namespace)}: forbidden")
        found = [
            body
            for body in self.objects[kind]
            if namespace is None or body["metadata"]["namespace"] == namespace
        ]
        yield Page({"metadata": {"resourceVersion": "999"}, "items": found})

    async def create(self, kind: Kind, body: Any) -> Any:
        meta = body["metadata"]
        self.created.append((kind.name, meta["namespace"], meta["name"]))
        return stored(body, self._next())

    async def apply(self, kind: Kind, manifest: Any) -> Any:
        return stored(manifest, self._next())

    async def replace_status(
        self, kind: Kind, namespace: str, name: str, version: int, status: Any
    ) -> Any:
        json.dumps(status)
        if (namespace, name) not in self.bodies:
            raise errors.NotFoundError(f"PATCH {kind.path(namespace, name)}")
        body = self.bodies[namespace, name] | {"status": status}
        self.bodies[namespace, name] = stored(body, self._next())
        return self.bodies[namespace, name]

    def _next(self) -> int:
        self.version_now += 1
        return self.version_now


class Operator:
    """Cache, informer and worker as the operator has them."""

    def __init__(self, *namespaces: str) -> None:
        self.skipped: list[str] = []
        self.failures: list[str] = []
        self.server = Server()
        self.queue: Queue[Key] = Queue()
        self.cache = Cache(lambda: NOW, lambda kind, *_: self.skipped.append(kind.plural))
        self.informer = Informer(
            self.server, self.cache, self.queue, namespaces, lambda *_: None, lambda: None, 0.0
        )
        poller = Poller(15, lambda: NOW, lambda *_: None)
        self.observer = Observer(self.server, self.cache, poller)
        executor = Executor(self.server, self.cache, lambda: NOW)
        policy = Policy(default_image="trainer:1")
        self.worker = Worker(
            self.queue, self.observer, executor, poller, decide, policy, lambda: NOW, self
        )

    def reconciled(self, seconds: float) -> None: ...

    def failed(self, kind: str) -> None:
        self.failures.append(kind)

    def changed(self, observed: Observed, decision: Decision) -> None: ...

    async def work(self, seconds: float = 3.0) -> None:
        working = asyncio.create_task(self.worker.run())
        await asyncio.sleep(seconds)
        assert not working.done()
        working.cancel()


def stored(body: Any, version: int) -> Any:
    """A body as the API server returns it."""
    body = copy.deepcopy(body)
    meta = body["metadata"]
    meta.setdefault("uid", f"uid-{meta['namespace']}-{meta['name']}")
    meta.setdefault("creationTimestamp", "2026-11-01T11:00:00Z")
    meta["resourceVersion"] = str(version)
    return body


def dreambooth_job(namespace: str, name: str, **spec: Any) -> Any:
    return stored(job_body(namespace, name, **spec), 1)


def children_of(namespace: str, name: str) -> dict[str, Any]:
    """A DreamBoothJob and one child of each kind, as the API server returns them."""
    body = dreambooth_job(namespace, name)
    job = parse(body)
    service, config, attempt = (stored(each, 2) for each in attempt_objects(job, 0, "trainer:1"))
    pod = {
        "metadata": attempt["spec"]["template"]["metadata"]
        | {
            "namespace": namespace,
            "name": f"{name}-0-0",
            "ownerReferences": [
                {"kind": "Job", "uid": attempt["metadata"]["uid"], "controller": True}
            ],
        },
        "spec": {"nodeName": "node-1"},
        "status": {
            "phase": "Running",
            "podIP": "10.0.0.1",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [
                {"name": "trainer", "state": {"running": {"startedAt": "2026-11-01T11:00:00Z"}}}
            ],
        },
    }
    bodies = [body, attempt, stored(pod, 3), service, config]
    return dict(zip((kind.name for kind in WATCHED), bodies, strict=True))


@st.composite
def damaged(draw: st.DrawFn) -> tuple[Kind, Any]:
    """Any JSON as an object; or a real one in which any JSON stands at one place."""
    name = draw(st.sampled_from(sorted(KINDS)))
    if draw(st.integers(0, 9)) == 0:
        return KINDS[name], draw(st.dictionaries(st.text(max_size=8), JSON, max_size=3))
    body = children_of("team-a", "theirs")[name]
    node: Any = body
    while True:
        keys = sorted(node) if isinstance(node, dict) else list(range(len(node)))
        key = draw(st.sampled_from(keys))
        child = node[key]
        if not (isinstance(child, (dict, list)) and child) or draw(st.integers(0, 4)) == 0:
            node[key] = draw(JSON)
            return KINDS[name], body
        node = child


def deleted_with_endless_grace() -> tuple[Kind, Any]:
    body = children_of("team-a", "theirs")["Pod"]
    body["metadata"]["deletionTimestamp"] = "3170843-11-01T12:00:00Z"
    body["metadata"]["deletionGracePeriodSeconds"] = 10**14
    return POD, body


def grace_beyond_the_calendar() -> tuple[Kind, Any]:
    body = children_of("team-a", "theirs")["Pod"]
    body["metadata"]["deletionTimestamp"] = "2026-11-01T12:00:00Z"
    body["metadata"]["deletionGracePeriodSeconds"] = 10**14
    return POD, body


@settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
@given(damaged())
@example(deleted_with_endless_grace())
@example(grace_beyond_the_calendar())
def test_whatever_an_object_holds_other_jobs_go_on(sent: tuple[Kind, Any]) -> None:
    kind, body = sent

    async def work() -> None:
        operator = Operator()
        for name, child in children_of("team-a", "theirs").items():
            operator.informer.on_event(KINDS[name], "ADDED", child)
        meta = body.get("metadata")
        if isinstance(meta, dict) and meta.get("resourceVersion") in ("1", "2", "3"):
            meta["resourceVersion"] = "9"
        operator.informer.on_event(kind, "MODIFIED", body)
        operator.server.objects[kind] = [body]
        operator.server.objects[DREAMBOOTH_JOB] = [
            *(operator.server.objects[DREAMBOOTH_JOB]),
            dreambooth_job("team-b", "ours"),
        ]
        await operator.informer.list_all()
        for each in WATCHED:
            await operator.informer.resync(each)
        await operator.work()
        assert ("Job", "team-b", "ours-preflight") in operator.server.created
        for job in operator.cache.dreambooth_jobs():
            pods = operator.cache.pods(job.key, job.uid)
            list(collect([MeasuredJob(job.key, job.summary, count_gpu_pods(pods))]))
        operator.informer.on_event(kind, "DELETED", body)

    run(work())


def test_an_unreadable_pod_is_passed_over_and_counted() -> None:
    operator = Operator()
    _, pod = deleted_with_endless_grace()

    async def work() -> None:
        operator.informer.on_event(POD, "MODIFIED", pod)
        operator.server.objects[POD] = [pod]
        await operator.informer.list_all()
        assert operator.skipped == ["pods", "pods"]
        assert not operator.cache.objects(POD)
        operator.informer.on_event(POD, "DELETED", pod)

    run(work())


def test_a_job_that_is_nested_too_deep_is_refused_alone() -> None:
    deep: Any = {}
    for _ in range(100):
        deep = {"a": deep}

    async def work() -> None:
        operator = Operator()
        runtime = {"nodes": 1, "podOverrides": {"spec": {"affinity": deep}}}
        operator.server.objects[DREAMBOOTH_JOB] = [
            dreambooth_job("team-a", "theirs", runtime=runtime),
            dreambooth_job("team-b", "ours"),
        ]
        await operator.informer.list_all()
        await operator.work()
        assert ("Job", "team-b", "ours-preflight") in operator.server.created
        (theirs,) = (j for j in operator.cache.dreambooth_jobs() if j.name == "theirs")
        (accepted,) = json.loads(theirs.body)["status"]["conditions"]
        assert accepted["status"] == "False"
        assert "spec.runtime.podOverrides: must be nested at most 32 levels" in accepted["message"]

    run(work())


def test_a_namespace_that_cannot_be_listed_stops_only_its_own_jobs() -> None:
    async def work() -> None:
        operator = Operator("team-a", "team-b")
        operator.server.forbidden = {"team-a"}
        operator.server.objects[DREAMBOOTH_JOB] = [
            dreambooth_job("team-a", "theirs"),
            dreambooth_job("team-b", "ours"),
        ]
        await operator.informer.list_all()
        assert operator.informer.failing_namespaces == 1
        # A watch may come back first: its jobs wait for the children to be listed.
        body = operator.server.objects[DREAMBOOTH_JOB][0]
        operator.informer.on_event(DREAMBOOTH_JOB, "ADDED", body)
        await operator.work()
        assert {namespace for _, namespace, _ in operator.server.created} == {"team-b"}

        watch = operator.informer.watches[JOB]
        before, watch.listed = watch.listed, 0.0
        operator.server.objects[DREAMBOOTH_JOB].append(dreambooth_job("team-b", "missed"))
        assert await operator.informer.resync(DREAMBOOTH_JOB) == 1
        await operator.informer.resync(JOB)
        assert watch.listed >= before

        operator.server.forbidden = set()
        listing = asyncio.create_task(operator.informer.run(1))
        await operator.work()
        listing.cancel()
        assert operator.informer.failing_namespaces == 0
        assert ("Job", "team-a", "theirs-preflight") in operator.server.created

    run(work())


def test_a_namespace_that_is_lost_later_does_not_stop_repairs() -> None:
    async def work() -> None:
        operator = Operator("team-a", "team-b")
        operator.server.objects[DREAMBOOTH_JOB] = [dreambooth_job("team-a", "theirs")]
        await operator.informer.list_all()
        operator.server.forbidden = {"team-a"}
        operator.server.objects[DREAMBOOTH_JOB].append(dreambooth_job("team-b", "ours"))
        assert await operator.informer.resync(DREAMBOOTH_JOB) == 1
        assert operator.informer.failing_namespaces == 1
        assert {job.name for job in operator.cache.dreambooth_jobs()} == {"theirs", "ours"}
        operator.server.forbidden = set()
        assert await operator.informer.resync(DREAMBOOTH_JOB) == 0
        assert operator.informer.failing_namespaces == 0

    run(work())


def test_list_all_waits_while_no_namespace_can_be_listed() -> None:
    async def work() -> None:
        operator = Operator("team-a", "team-b")
        operator.server.forbidden = {"team-a", "team-b"}
        listing = asyncio.create_task(operator.informer.list_all())
        await asyncio.sleep(10)
        assert not listing.done()
        operator.server.forbidden = {"team-b"}
        await asyncio.sleep(5)
        assert listing.done()

    run(work())


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
@example(b'{"stage":"Training","step":-1,"totalSteps":800}')
@example(b'{"stage":"Training","step":1,"totalSteps":800,"etaSeconds":1e300}')
@example(b'{"stage":"Training","step":1,"totalSteps":800,"output":"s3://%b"}' % (b"u" * 3000))
def test_any_answer_of_a_pod_is_a_reading(answer: bytes) -> None:
    world = running()
    try:
        world.reading = Reading(world.now, "10.0.0.0", Progress.decode(answer))
    except UnreadableProgressError as error:
        world.reading = Reading(world.now, "10.0.0.0", problem=str(error), unreadable=True)
    world.settle()
    assert world.status.phase == "Running"
    Status.model_validate_json(json.dumps(encode_status(world.status)))


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=300) | JSON.map(json.dumps), st.integers(0, 255))
@example('{"version":1,"rank":99999999999999999999999,"message":"x"}', 1)
@example('{"version":1,"checkpoint":{"step":-1,"uri":"' + "u" * 3000 + '"}}', 143)
def test_any_termination_message_leaves_the_status_valid(message: str, code: int) -> None:
    world = running()
    world.fail(code, message)
    Status.model_validate_json(json.dumps(encode_status(world.status)))
