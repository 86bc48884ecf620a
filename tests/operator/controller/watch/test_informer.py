"""A resync finds what a watch missed, and does not count what the watch delivers meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_operator.controller.kube.client import Page
from dreambooth_operator.controller.kube.kinds import CONFIG_MAP, DREAMBOOTH_JOB, JOB, POD, Kind
from dreambooth_operator.controller.kube.objects import Key
from dreambooth_operator.controller.watch import cache as cache_module
from dreambooth_operator.controller.watch import informer as informer_module
from dreambooth_operator.controller.watch.informer import Informer
from dreambooth_operator.manifests.names import TRAINER, Manifest, labels
from dreambooth_operator.manifests.resources import attempt_job, config_map
from tests.operator.controller.parts import Parts, job_body, parts


class Repairs:
    """Records repairs by kind."""

    def __init__(self) -> None:
        self.recorded: list[tuple[str, int]] = []

    def __call__(self, kind: Kind, changes: int) -> None:
        self.recorded.append((kind.plural, changes))


def _informer(own: Parts, namespace: str, repairs: Repairs, lag: float = 0.0) -> Informer:
    return own.informer(namespace, on_repair=repairs, lag_seconds=lag)


async def _with_job(own: Parts, namespace: str, name: str) -> None:
    seen = await own.created(namespace, name)
    await own.api.create(JOB, attempt_job(seen.job, 0, "trainer:1"))


def test_everything_is_listed_at_the_start(namespace: str) -> None:
    async def work() -> None:
        async with parts() as first:
            for name in ("mug", "dog"):
                await _with_job(first, namespace, name)
        async with parts() as own:
            await _informer(own, namespace, Repairs()).list_all()
            assert {record.name for record in own.cache.dreambooth_jobs()} == {"mug", "dog"}
            seen = await own.observed(namespace, "mug")
            assert [job.name for job in seen.attempts] == ["mug-0"]
            assert own.queue.depth == 2

    asyncio.run(work())


def test_the_event_of_a_deletion_shows_how_a_pod_ended(namespace: str) -> None:
    """The one before it, with the end of its container, may have been passed over."""

    async def work() -> None:
        async with parts() as own:
            await _with_job(own, namespace, "mug")
            informer = _informer(own, namespace, Repairs())
            await informer.list_all()
            (job,) = (await own.observed(namespace, "mug")).attempts
            informer.on_event(POD, "MODIFIED", _pod(namespace, job.uid, 1, {"running": {}}))
            end = {"exitCode": 143, "finishedAt": "2026-01-01T00:00:00Z", "message": "stopped"}
            informer.on_event(POD, "DELETED", _pod(namespace, job.uid, 2, {"terminated": end}))
            (pod,) = (await own.observed(namespace, "mug")).pods
            assert (pod.gone, pod.exit_code, pod.termination.message) == (True, 143, "stopped")

    asyncio.run(work())


def _pod(namespace: str, job_uid: str, version: int, state: Manifest) -> Manifest:
    return {
        "metadata": {
            "name": "mug-0-0-abcde",
            "namespace": namespace,
            "uid": "pod",
            "resourceVersion": str(version),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": labels(DreamBoothJob.model_validate(job_body(namespace, "mug")), TRAINER, 0),
            "ownerReferences": [
                {"kind": "Job", "name": "mug-0", "uid": job_uid, "controller": True}
            ],
        },
        "status": {"containerStatuses": [{"name": TRAINER, "state": state}]},
    }


def test_nothing_is_repaired_if_nothing_was_missed(namespace: str) -> None:
    async def work() -> None:
        async with parts() as own:
            seen = await own.created(namespace, "mug")
            await own.api.create(CONFIG_MAP, config_map(seen.job))
            repairs = Repairs()
            informer = _informer(own, namespace, repairs)
            await informer.list_all()
            await own.queue.get()
            assert await informer.resync(DREAMBOOTH_JOB) == 0
            assert await informer.resync(CONFIG_MAP) == 0
            assert repairs.recorded == []
            assert own.queue.depth == 0

    asyncio.run(work())


def test_missed_creation_change_and_removal_are_found(namespace: str) -> None:
    async def work() -> None:
        async with parts() as own:
            for name in ("removed", "changed"):
                await _with_job(own, namespace, name)
            repairs = Repairs()
            informer = _informer(own, namespace, repairs)
            await informer.list_all()
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
            assert await informer.resync(DREAMBOOTH_JOB) == 3
            assert repairs.recorded == [("dreamboothjobs", 3)]
            phases = {record.name: record.summary.phase for record in own.cache.dreambooth_jobs()}
            assert phases == {"changed": "Running", "created": "Pending"}
            assert informer.watches[DREAMBOOTH_JOB].misses == 1
            await informer.resync(DREAMBOOTH_JOB)
            assert informer.watches[DREAMBOOTH_JOB].misses == 0

    asyncio.run(work())


def test_event_that_arrives_late_is_not_a_miss(namespace: str) -> None:
    async def work() -> None:
        async with parts() as own:
            repairs = Repairs()
            informer = _informer(own, namespace, repairs, lag=1.0)
            await informer.list_all()
            body = await own.api.create(DREAMBOOTH_JOB, job_body(namespace, "mug"))
            asyncio.get_running_loop().call_later(
                0.3, informer.on_event, DREAMBOOTH_JOB, "ADDED", body
            )
            assert await informer.resync(DREAMBOOTH_JOB) == 0
            assert repairs.recorded == []
            assert own.cache.dreambooth_job(Key(namespace, "mug")) is not None

    asyncio.run(work())


def test_object_deleted_before_the_watch_started_is_found_soon(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(informer_module, "FIRST_RESYNC_SECONDS", 0.1)

    async def work() -> None:
        async with parts() as own:
            seen = await own.created(namespace, "mug")
            informer = _informer(own, namespace, Repairs())
            await informer.list_all()
            uid = seen.job.metadata.uid or ""
            await own.api.delete(DREAMBOOTH_JOB, namespace, "mug", uid, propagation="Background")
            running = asyncio.create_task(informer.run(resync_seconds=600))
            async with asyncio.timeout(30):
                while list(own.cache.dreambooth_jobs()):
                    await asyncio.sleep(0.05)
            running.cancel()

    asyncio.run(work())


def test_other_namespaces_are_ignored(namespace: str) -> None:
    async def work() -> None:
        async with parts() as own:
            await own.created(namespace, "mug")
            elsewhere = own.informer("elsewhere")
            await elsewhere.list_all()
            assert await elsewhere.resync(DREAMBOOTH_JOB) == 0
            assert own.cache.dreambooth_job(Key(namespace, "mug")) is not None

    asyncio.run(work())


def test_an_object_that_cannot_be_read_is_left_out_and_stops_nothing(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with parts() as own:
            for name in ("mug", "dog"):
                await _with_job(own, namespace, name)
        async with parts() as own:
            snapshot_of = cache_module.snapshot_of

            def read_all_but_one(kind: Kind, body: Manifest) -> cache_module.Snapshot | None:
                if body["metadata"]["name"] == "mug":
                    raise OverflowError("date value out of range")
                return snapshot_of(kind, body)

            monkeypatch.setattr(cache_module, "snapshot_of", read_all_but_one)
            informer = _informer(own, namespace, Repairs())
            await informer.list_all()
            assert {record.name for record in own.cache.dreambooth_jobs()} == {"dog"}
            assert await informer.resync(DREAMBOOTH_JOB) == 0

    asyncio.run(work())


@pytest.mark.parametrize("state", ["older", "missing"])
def test_an_api_server_whose_etcd_was_restored_is_noticed(namespace: str, state: str) -> None:
    """The cache has what was written after the backup: in a newer version, or at all."""

    async def work() -> None:
        async with parts() as own:
            body = await own.api.create(DREAMBOOTH_JOB, job_body(namespace, "mug"))
            restored: list[str] = []
            informer = own.informer(namespace, on_restored=lambda: restored.append("once"))
            await informer.list_all()
            await informer.resync(DREAMBOOTH_JOB)
            assert restored == []
            later = str(int(body["metadata"]["resourceVersion"]) + 100_000)
            changed = {"resourceVersion": later}
            if state == "missing":
                changed |= {"name": "other", "uid": "other"}
            own.cache.update(DREAMBOOTH_JOB, body | {"metadata": body["metadata"] | changed})
            await informer.resync(DREAMBOOTH_JOB)
            assert restored == ["once"]

    asyncio.run(work())


def test_a_list_older_than_the_one_before_shows_a_restored_etcd(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is in the cache, and watches would still wait for versions of the future."""

    async def work() -> None:
        async with parts() as own:
            restored: list[str] = []
            informer = own.informer(namespace, on_restored=lambda: restored.append("once"))
            await informer.list_all()
            pages = own.api.pages

            async def older(kind: Kind, within: str | None) -> AsyncIterator[Page]:
                async for page in pages(kind, within):
                    page.version -= 1_000_000
                    yield page

            monkeypatch.setattr(own.api, "pages", older)
            await informer.resync(DREAMBOOTH_JOB)
            assert restored == ["once"]

    asyncio.run(work())
