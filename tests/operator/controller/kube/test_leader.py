"""One process leads at a time, and the next takes over at once or when the Lease has expired."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from dreambooth_operator.controller.kube import errors
from dreambooth_operator.controller.kube.kinds import LEASE
from dreambooth_operator.controller.kube.leader import Leader, Lease
from tests.operator.controller.parts import Parts, parts


def _leader(own: Parts, namespace: str, identity: str, duration_seconds: float = 3.0) -> Leader:
    lease = Lease(namespace, "dreambooth-operator", duration_seconds, renew_seconds=0.3)
    return Leader(own.api, lease, identity, own.clock.now)


async def _leads_within(leader: Leader, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await leader.acquire()
    except TimeoutError:
        return False
    return True


def test_second_waits_until_the_first_releases(namespace: str) -> None:
    async def work() -> None:
        async with parts() as own:
            first, second = (_leader(own, namespace, name) for name in ("first", "second"))
            await first.acquire()
            holding = asyncio.create_task(first.hold(lambda: pytest.fail("the Lease was lost")))
            assert not await _leads_within(second, 4)
            holding.cancel()
            await asyncio.wait({holding})
            await first.release()
            assert not first.leads
            assert await _leads_within(second, 2)
            lease = await own.api.get(LEASE, namespace, "dreambooth-operator")
            assert lease["spec"]["holderIdentity"] == "second"
            assert lease["spec"]["leaseTransitions"] == 1

    asyncio.run(work())


def test_leader_that_does_not_renew_is_replaced_when_its_lease_expires(
    namespace: str,
) -> None:
    async def work() -> None:
        async with parts() as own:
            first, second = (_leader(own, namespace, name) for name in ("first", "second"))
            await first.acquire()
            started = time.monotonic()
            assert await _leads_within(second, 10)
            assert time.monotonic() - started >= 2.9

    asyncio.run(work())


def test_leader_that_cannot_renew_stops_before_others_take_over(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> float:
        async with parts() as own:
            leader = _leader(own, namespace, "first")
            await leader.acquire()
            lost = asyncio.Event()

            async def unavailable(*_: Any) -> Any:
                raise errors.UnavailableError("down")

            monkeypatch.setattr(own.api, "get", unavailable)
            started = time.monotonic()
            async with asyncio.timeout(10):
                await leader.hold(lost.set)
            assert lost.is_set()
            assert not leader.leads
            return time.monotonic() - started

    assert asyncio.run(work()) < 3.4


def test_lease_taken_by_another_process_is_lost(namespace: str) -> None:
    async def work() -> None:
        async with parts() as own:
            leader = _leader(own, namespace, "first", duration_seconds=1.0)
            await leader.acquire()
            lease = await own.api.get(LEASE, namespace, "dreambooth-operator")
            lease["spec"]["holderIdentity"] = "usurper"
            await own.api.replace(LEASE, lease)
            lost = asyncio.Event()
            holding = asyncio.create_task(leader.hold(lost.set))
            # The usurper goes on to renew.
            for number in range(20):
                lease = await own.api.get(LEASE, namespace, "dreambooth-operator")
                lease["spec"]["leaseTransitions"] = number
                await own.api.replace(LEASE, lease)
                await asyncio.sleep(0.1)
            assert lost.is_set()
            await holding

    asyncio.run(work())


def test_stalled_process_may_not_write(namespace: str) -> None:
    async def work() -> None:
        async with parts() as own:
            leader = _leader(own, namespace, "first", duration_seconds=1.0)
            with pytest.raises(errors.NotLeadingError):
                leader.ensure()
            await leader.acquire()
            leader.ensure()
            time.sleep(1)  # stalls the whole process, not one task
            with pytest.raises(errors.NotLeadingError):
                leader.ensure()

    asyncio.run(work())


def test_a_lease_of_an_older_version_shows_a_restored_etcd(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with parts() as own:
            leader = _leader(own, namespace, "first", duration_seconds=30.0)
            await leader.acquire()
            lost = asyncio.Event()
            holding = asyncio.create_task(leader.hold(lost.set))
            await asyncio.sleep(1)
            assert not lost.is_set()
            get = own.api.get

            async def older(*what: Any) -> Any:
                lease = await get(*what)
                lease["metadata"]["resourceVersion"] = "1"
                return lease

            monkeypatch.setattr(own.api, "get", older)
            async with asyncio.timeout(5):
                await holding
            assert lost.is_set()

    asyncio.run(work())
