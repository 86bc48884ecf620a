"""What no watch told of is found by listing, and what only came in the meantime is no miss."""

from __future__ import annotations

import asyncio

import pytest

from dreambooth_operator.controller.kube.kinds import CONFIG_MAP, DREAMBOOTH_JOB, JOB, Kind
from dreambooth_operator.controller.kube.snapshots import Key
from dreambooth_operator.controller.watch import resync as resync_module
from dreambooth_operator.controller.watch.resync import Resync
from dreambooth_operator.manifests.resources import attempt_job, config_map
from tests.operator.controller.parts import Parts, job_body, parts


class Repairs:
    """What was repaired, by kind."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def __call__(self, kind: Kind, changes: int) -> None:
        self.told.append((kind.plural, changes))


def _resync(own: Parts, namespace: str, repairs: Repairs, lag: float = 0.0) -> Resync:
    return Resync(own.api, own.store, own.intake, [namespace], repairs, lag_seconds=lag)


async def _with_job(own: Parts, namespace: str, name: str) -> None:
    seen = await own.created(namespace, name)
    await own.api.create(JOB, attempt_job(seen.job, 0, "trainer:1"))


def test_everything_is_listed_at_the_start(namespace: str) -> None:
    async def work() -> None:
        async with parts() as first:
            for name in ("mug", "dog"):
                await _with_job(first, namespace, name)
        async with parts() as own:
            await _resync(own, namespace, Repairs()).fill()
            assert {record.name for record in own.store.records()} == {"mug", "dog"}
            seen = await own.observed(namespace, "mug")
            assert [job.name for job in seen.attempts] == ["mug-0"]
            assert own.queue.depth == 2

    asyncio.run(work())


def test_nothing_missed_is_nothing_repaired(namespace: str) -> None:
    async def work() -> None:
        async with parts() as own:
            seen = await own.created(namespace, "mug")
            await own.api.create(CONFIG_MAP, config_map(seen.job))
            repairs = Repairs()
            resync = _resync(own, namespace, repairs)
            await resync.fill()
            await own.queue.get()
            assert await resync.compare(DREAMBOOTH_JOB) == 0
            assert await resync.compare(CONFIG_MAP) == 0
            assert repairs.told == []
            assert own.queue.depth == 0

    asyncio.run(work())


def test_missed_creation_change_and_removal_are_found(namespace: str) -> None:
    async def work() -> None:
        async with parts() as own:
            for name in ("removed", "changed"):
                await _with_job(own, namespace, name)
            repairs = Repairs()
            resync = _resync(own, namespace, repairs)
            await resync.fill()
            removed = (await own.observed(namespace, "removed")).job.metadata.uid or ""
            await own.api.delete(
                DREAMBOOTH_JOB, namespace, "removed", removed, propagation="Background"
            )
            changed = await own.api.get(DREAMBOOTH_JOB, namespace, "changed")
            version = int(changed["metadata"]["resourceVersion"])
            await own.api.replace_status(
                DREAMBOOTH_JOB, namespace, "changed", version, {"phase": "Running"}
            )
            await own.api.create(DREAMBOOTH_JOB, job_body(namespace, "created"))
            assert await resync.compare(DREAMBOOTH_JOB) == 3
            assert repairs.told == [("dreamboothjobs", 3)]
            phases = {record.name: record.facts.phase for record in own.store.records()}
            assert phases == {"changed": "Running", "created": "Pending"}
            assert resync.watches[DREAMBOOTH_JOB].misses == 1
            await resync.compare(DREAMBOOTH_JOB)
            assert resync.watches[DREAMBOOTH_JOB].misses == 0

    asyncio.run(work())


def test_watch_that_is_only_a_little_late_missed_nothing(namespace: str) -> None:
    async def work() -> None:
        async with parts() as own:
            repairs = Repairs()
            resync = _resync(own, namespace, repairs, lag=1.0)
            await resync.fill()
            body = await own.api.create(DREAMBOOTH_JOB, job_body(namespace, "mug"))
            asyncio.get_running_loop().call_later(
                0.3, own.intake.hear, DREAMBOOTH_JOB, "ADDED", body
            )
            assert await resync.compare(DREAMBOOTH_JOB) == 0
            assert repairs.told == []
            assert own.store.record(Key(namespace, "mug")) is not None

    asyncio.run(work())


def test_what_vanished_before_the_watches_began_is_soon_found(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resync_module, "SOON_SECONDS", 0.1)

    async def work() -> None:
        async with parts() as own:
            seen = await own.created(namespace, "mug")
            resync = _resync(own, namespace, Repairs())
            await resync.fill()
            uid = seen.job.metadata.uid or ""
            await own.api.delete(DREAMBOOTH_JOB, namespace, "mug", uid, propagation="Background")
            running = asyncio.create_task(resync.run(every_seconds=600))
            async with asyncio.timeout(30):
                while list(own.store.records()):
                    await asyncio.sleep(0.05)
            running.cancel()

    asyncio.run(work())


def test_other_namespaces_are_left_alone(namespace: str) -> None:
    async def work() -> None:
        async with parts() as own:
            await own.created(namespace, "mug")
            elsewhere = Resync(own.api, own.store, own.intake, ["elsewhere"], Repairs(), 0.0)
            await elsewhere.fill()
            assert await elsewhere.compare(DREAMBOOTH_JOB) == 0
            assert own.store.record(Key(namespace, "mug")) is not None

    asyncio.run(work())
