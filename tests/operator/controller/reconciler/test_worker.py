"""A job is looked at until nothing is left to do; what goes wrong is tried again and told once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any

from dreambooth_api.models.status import Status
from dreambooth_operator.controller.decide.decision import NOTHING, Apply, Decision, Event
from dreambooth_operator.controller.decide.observed import Observed, Policy
from dreambooth_operator.controller.kube.snapshots import Key
from dreambooth_operator.controller.reconciler.worker import Worker
from dreambooth_operator.manifests.resources import service
from tests.cluster.kubectl import Kubectl
from tests.operator.controller.parts import Parts, parts

POLICY = Policy(default_image="trainer:1")


class Reports:
    """Counts what the worker tells."""

    def __init__(self) -> None:
        self.looks = 0
        self.errors: list[str] = []
        self.changes: list[Decision] = []

    def reconciled(self, seconds: float) -> None:
        self.looks += 1

    def failed(self, kind: str) -> None:
        self.errors.append(kind)

    def changed(self, seen: Observed, decision: Decision) -> None:
        self.changes.append(decision)


async def _work(
    own: Parts,
    key: Key,
    decide: Callable[[Observed], Decision],
    until: Callable[[Reports], bool],
    settle: float = 0.0,
) -> Reports:
    """Have a worker look at a job until something holds, and a while longer."""
    reports = Reports()

    def deciding(seen: Observed, now: datetime, policy: Policy) -> Decision:
        assert policy is POLICY
        return decide(seen)

    worker = Worker(own.queue, own.cluster, own.poller, deciding, POLICY, own.clock.now, reports)
    own.queue.add(key)
    task = asyncio.create_task(worker.run())
    try:
        async with asyncio.timeout(30):
            while not until(reports):
                await asyncio.sleep(0.02)
        await asyncio.sleep(settle)
    finally:
        task.cancel()
        await asyncio.wait({task})
    return reports


def _phase(seen: Observed) -> str | None:
    return seen.job.status.phase if seen.job.status else None


def test_job_is_looked_at_again_after_each_write_until_nothing_changes(namespace: str) -> None:
    then = {None: "Pending", "Pending": "Preflight"}

    def decide(seen: Observed) -> Decision:
        phase: Any = then.get(_phase(seen))
        return Decision(status=Status(phase=phase)) if phase else NOTHING

    async def work() -> Reports:
        async with parts() as own:
            await own.created(namespace, "mug")
            return await _work(
                own, Key(namespace, "mug"), decide, lambda told: told.looks >= 3, settle=0.3
            )

    reports = asyncio.run(work())
    assert reports.looks == 3
    assert [each.status and each.status.phase for each in reports.changes] == [
        "Pending",
        "Preflight",
    ]
    assert reports.errors == []


def test_children_of_all_jobs_come_before_reports_on_any(namespace: str) -> None:
    looks: list[tuple[str, bool]] = []

    def decide(seen: Observed) -> Decision:
        looks.append((seen.job.metadata.name, "Service" in seen.missing))
        actions = (Apply(service(seen.job)),) if "Service" in seen.missing else ()
        return Decision(actions, status=None if _phase(seen) else Status(phase="Pending"))

    async def work() -> Reports:
        async with parts() as own:
            for name in ("mug", "cup"):
                await own.created(namespace, name)
            own.queue.add(Key(namespace, "mug"))
            return await _work(
                own, Key(namespace, "cup"), decide, lambda told: len(told.changes) == 2
            )

    asyncio.run(work())
    assert looks[:4] == [("mug", True), ("cup", True), ("mug", False), ("cup", False)]


def test_wake_brings_the_job_back(namespace: str) -> None:
    async def work() -> Reports:
        async with parts() as own:
            await own.created(namespace, "mug")
            decide = lambda _: Decision(requeue_seconds=0.1)  # noqa: E731
            return await _work(own, Key(namespace, "mug"), decide, lambda told: told.looks >= 3)

    assert asyncio.run(work()).looks >= 3


def test_taken_name_is_told_and_nothing_is_made(kubectl: Kubectl, namespace: str) -> None:
    kubectl.create(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "mug-ranks"},
            "spec": {"ports": [{"port": 80}]},
        }
    )

    def decide(seen: Observed) -> Decision:
        if seen.blocked:
            return Decision(
                actions=(Apply(service(seen.job)),),
                status=None if _phase(seen) else Status(phase="Pending"),
                events=()
                if _phase(seen)
                else (Event("Warning", "NameTaken", seen.blocked.message),),
                requeue_seconds=60,
            )
        return Decision(actions=(Apply(service(seen.job)),))

    async def work() -> Reports:
        async with parts() as own:
            await own.created(namespace, "mug")
            return await _work(
                own, Key(namespace, "mug"), decide, lambda told: told.looks >= 2, settle=0.3
            )

    reports = asyncio.run(work())
    assert reports.errors == []
    assert reports.looks == 2
    found = kubectl.get("service", "mug-ranks")
    assert found is not None
    assert found["spec"]["ports"][0]["port"] == 80
    (event,) = kubectl.events("mug")
    assert event["message"].startswith("Service mug-ranks exists and is not this job's")


def test_job_that_changed_meanwhile_is_looked_at_again_at_once(
    kubectl: Kubectl, namespace: str
) -> None:
    async def work() -> Reports:
        async with parts() as own:
            await own.created(namespace, "mug")
            await asyncio.to_thread(kubectl, "annotate", "dbj", "mug", "note=changed")

            def decide(seen: Observed) -> Decision:
                return NOTHING if _phase(seen) else Decision(status=Status(phase="Pending"))

            return await _work(own, Key(namespace, "mug"), decide, lambda told: bool(told.changes))

    reports = asyncio.run(work())
    assert reports.errors == []
    job = kubectl.get("dbj", "mug")
    assert job is not None
    assert job["status"]["phase"] == "Pending"


def test_what_the_api_server_refuses_is_told_once(kubectl: Kubectl, namespace: str) -> None:
    def decide(seen: Observed) -> Decision:
        manifest = service(seen.job)
        manifest["metadata"]["labels"]["owner"] = "not a label's value"
        if seen.blocked is None:
            return Decision(actions=(Apply(manifest),))
        event = Event("Warning", seen.blocked.reason, seen.blocked.message)
        return Decision(
            status=None if _phase(seen) else Status(phase="Pending"),
            events=() if _phase(seen) else (event,),
            requeue_seconds=1,
        )

    async def work() -> Reports:
        async with parts() as own:
            await own.created(namespace, "mug")
            return await _work(
                own, Key(namespace, "mug"), decide, lambda told: len(told.errors) >= 3
            )

    assert asyncio.run(work()).errors[:3] == ["invalid", "invalid", "invalid"]
    events = kubectl.events("mug")
    assert [each["reason"] for each in events] == ["NotAllowed"]
    assert "metadata.labels" in events[0]["message"]


def test_bug_in_a_decision_is_tried_again(namespace: str) -> None:
    def decide(seen: Observed) -> Decision:
        raise ZeroDivisionError

    async def work() -> Reports:
        async with parts() as own:
            await own.created(namespace, "mug")
            return await _work(
                own, Key(namespace, "mug"), decide, lambda told: len(told.errors) >= 2
            )

    assert asyncio.run(work()).errors[:2] == ["bug", "bug"]


def test_job_that_is_gone_is_not_polled_any_more(namespace: str) -> None:
    async def work() -> None:
        async with parts() as own:
            key = Key(namespace, "gone")
            own.poller.set_address(key, "10.0.0.1")
            reports = await _work(own, key, lambda _: NOTHING, lambda told: told.looks >= 1)
            assert reports.errors == []
            assert own.poller._addresses == {}

    asyncio.run(work())
