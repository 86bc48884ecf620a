"""A job is reconciled until nothing is left to do; failures are retried and reported once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any

from dreambooth_api.models.status import Status
from dreambooth_operator.controller.decide.state.decision import NOTHING, Apply, Decision, Event
from dreambooth_operator.controller.decide.state.observed import Observed, Policy
from dreambooth_operator.controller.kube.objects import Key
from dreambooth_operator.controller.reconciler.worker import Worker
from dreambooth_operator.manifests.resources import service
from tests.cluster.kubectl import Kubectl
from tests.operator.controller.parts import Parts, parts

POLICY = Policy(default_image="trainer:1")


class Metrics:
    """Counts what the worker measures."""

    def __init__(self) -> None:
        self.reconciliations = 0
        self.errors: list[str] = []
        self.changes: list[Decision] = []

    def reconciled(self, seconds: float) -> None:
        self.reconciliations += 1

    def failed(self, kind: str) -> None:
        self.errors.append(kind)

    def changed(self, observed: Observed, decision: Decision) -> None:
        self.changes.append(decision)


async def _work(
    own: Parts,
    key: Key,
    decide: Callable[[Observed], Decision],
    until: Callable[[Metrics], bool],
    settle: float = 0.0,
) -> Metrics:
    """Have a worker reconcile a job until something holds, and for a while longer."""
    metrics = Metrics()

    def deciding(observed: Observed, now: datetime, policy: Policy) -> Decision:
        assert policy is POLICY
        return decide(observed)

    worker = Worker(
        own.queue, own.observer, own.executor, own.poller, deciding, POLICY, own.clock.now, metrics
    )
    own.queue.add(key)
    task = asyncio.create_task(worker.run())
    try:
        async with asyncio.timeout(30):
            while not until(metrics):
                await asyncio.sleep(0.02)
        await asyncio.sleep(settle)
    finally:
        task.cancel()
        await asyncio.wait({task})
    return metrics


def _phase(observed: Observed) -> str | None:
    return observed.job.status.phase if observed.job.status else None


def test_job_is_reconciled_again_after_each_write_until_nothing_changes(namespace: str) -> None:
    then = {None: "Pending", "Pending": "Preflight"}

    def decide(observed: Observed) -> Decision:
        phase: Any = then.get(_phase(observed))
        return Decision(status=Status(phase=phase)) if phase else NOTHING

    async def work() -> Metrics:
        async with parts() as own:
            await own.created(namespace, "mug")
            return await _work(
                own,
                Key(namespace, "mug"),
                decide,
                lambda metrics: metrics.reconciliations >= 3,
                settle=0.3,
            )

    metrics = asyncio.run(work())
    assert metrics.reconciliations == 3
    assert [each.status and each.status.phase for each in metrics.changes] == [
        "Pending",
        "Preflight",
    ]
    assert metrics.errors == []


def test_children_of_all_jobs_come_before_the_status_of_any(namespace: str) -> None:
    reconciliations: list[tuple[str, bool]] = []

    def decide(observed: Observed) -> Decision:
        reconciliations.append((observed.job.metadata.name, "Service" in observed.damaged))
        actions = (Apply(service(observed.job, 0)),) if "Service" in observed.damaged else ()
        return Decision(actions, status=None if _phase(observed) else Status(phase="Pending"))

    async def work() -> Metrics:
        async with parts() as own:
            for name in ("mug", "cup"):
                await own.created(namespace, name)
            own.queue.add(Key(namespace, "mug"))
            return await _work(
                own, Key(namespace, "cup"), decide, lambda metrics: len(metrics.changes) == 2
            )

    asyncio.run(work())
    assert reconciliations[:4] == [("mug", True), ("cup", True), ("mug", False), ("cup", False)]


def test_job_is_requeued_after_the_time_that_was_decided(namespace: str) -> None:
    async def work() -> Metrics:
        async with parts() as own:
            await own.created(namespace, "mug")
            decide = lambda _: Decision(requeue_seconds=0.1)  # noqa: E731
            return await _work(
                own, Key(namespace, "mug"), decide, lambda metrics: metrics.reconciliations >= 3
            )

    assert asyncio.run(work()).reconciliations >= 3


def test_taken_name_is_reported_and_nothing_is_created(kubectl: Kubectl, namespace: str) -> None:
    kubectl.create(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "mug-ranks"},
            "spec": {"ports": [{"port": 80}]},
        }
    )

    def decide(observed: Observed) -> Decision:
        if observed.blocked:
            return Decision(
                actions=(Apply(service(observed.job, 0)),),
                status=None if _phase(observed) else Status(phase="Pending"),
                events=()
                if _phase(observed)
                else (Event("Warning", "NameTaken", observed.blocked.message),),
                requeue_seconds=60,
            )
        return Decision(actions=(Apply(service(observed.job, 0)),))

    async def work() -> Metrics:
        async with parts() as own:
            await own.created(namespace, "mug")
            return await _work(
                own,
                Key(namespace, "mug"),
                decide,
                lambda metrics: metrics.reconciliations >= 2,
                settle=0.3,
            )

    metrics = asyncio.run(work())
    assert metrics.errors == []
    assert metrics.reconciliations == 2
    found = kubectl.get("service", "mug-ranks")
    assert found is not None
    assert found["spec"]["ports"][0]["port"] == 80
    (event,) = kubectl.events("mug")
    assert event["message"].startswith("Service mug-ranks exists and is not this job's")


def test_job_that_changed_meanwhile_is_reconciled_again_at_once(
    kubectl: Kubectl, namespace: str
) -> None:
    async def work() -> Metrics:
        async with parts() as own:
            await own.created(namespace, "mug")
            await asyncio.to_thread(kubectl, "annotate", "dbj", "mug", "note=changed")

            def decide(observed: Observed) -> Decision:
                return NOTHING if _phase(observed) else Decision(status=Status(phase="Pending"))

            return await _work(
                own, Key(namespace, "mug"), decide, lambda metrics: bool(metrics.changes)
            )

    metrics = asyncio.run(work())
    assert metrics.errors == []
    job = kubectl.get("dbj", "mug")
    assert job is not None
    assert job["status"]["phase"] == "Pending"


def test_what_the_api_server_refuses_is_reported_once(kubectl: Kubectl, namespace: str) -> None:
    def decide(observed: Observed) -> Decision:
        manifest = service(observed.job, 0)
        manifest["metadata"]["labels"]["owner"] = "not a label's value"
        if observed.blocked is None:
            return Decision(actions=(Apply(manifest),))
        event = Event("Warning", observed.blocked.reason, observed.blocked.message)
        return Decision(
            status=None if _phase(observed) else Status(phase="Pending"),
            events=() if _phase(observed) else (event,),
            requeue_seconds=1,
        )

    async def work() -> Metrics:
        async with parts() as own:
            await own.created(namespace, "mug")
            return await _work(
                own, Key(namespace, "mug"), decide, lambda metrics: len(metrics.errors) >= 3
            )

    assert asyncio.run(work()).errors[:3] == ["invalid", "invalid", "invalid"]
    events = kubectl.events("mug")
    assert [each["reason"] for each in events] == ["NotAllowed"]
    assert "metadata.labels" in events[0]["message"]


def test_bug_in_a_decision_is_retried(namespace: str) -> None:
    def decide(observed: Observed) -> Decision:
        raise ZeroDivisionError

    async def work() -> Metrics:
        async with parts() as own:
            await own.created(namespace, "mug")
            return await _work(
                own, Key(namespace, "mug"), decide, lambda metrics: len(metrics.errors) >= 2
            )

    assert asyncio.run(work()).errors[:2] == ["bug", "bug"]


def test_job_that_is_gone_is_not_polled_any_more(namespace: str) -> None:
    async def work() -> None:
        async with parts() as own:
            key = Key(namespace, "gone")
            own.poller.set_address(key, "10.0.0.1")
            metrics = await _work(
                own, key, lambda _: NOTHING, lambda metrics: metrics.reconciliations >= 1
            )
            assert metrics.errors == []
            assert own.poller._addresses == {}

    asyncio.run(work())
