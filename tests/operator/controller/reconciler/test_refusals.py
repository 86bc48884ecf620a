"""Events of a Job are read seldom, and only the Job controller's newest one counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dreambooth_operator.controller.kube import errors
from dreambooth_operator.controller.kube.client import Api
from dreambooth_operator.controller.kube.objects import Key
from dreambooth_operator.controller.reconciler import refusals
from dreambooth_operator.controller.reconciler.refusals import RefusalReader
from tests.operator.controller.world import KEY, START, World

WORDS = 'pods "mug-preflight-x" is forbidden: exceeded quota: team'


class Events:
    """An API server that has these events."""

    def __init__(self, *events: Any, error: errors.ApiError | None = None) -> None:
        self.events = events
        self.error = error
        self.requests: list[str] = []
        self.answer = asyncio.Event()
        """Unset: the API server has not answered yet."""
        self.answer.set()

    async def pages(self, _kind: Any, _namespace: str, fields: str) -> AsyncIterator[Any]:
        self.requests.append(fields)
        await self.answer.wait()
        if self.error:
            raise self.error
        yield SimpleNamespace(items=list(self.events))


def event(message: Any, seconds: float = 0, **fields: Any) -> dict[str, Any]:
    """A FailedCreate event, so many seconds after the Job was created."""
    time = (START + timedelta(seconds=seconds)).isoformat()
    known = {"message": message, "lastTimestamp": time, "source": {"component": "job-controller"}}
    return known | fields


def read(*events: Any, error: errors.ApiError | None = None, pods: bool = False) -> str:
    """What is read of the preflight of a new job, once its first interval is over."""
    world = World()
    world.settle()
    if pods:
        world.tick(30)
        world.control_jobs()
    job = world.jobs["mug-preflight"]
    reader = RefusalReader(cast(Api, Events(*events, error=error)), iter((0, 3)).__next__)

    async def both() -> str:
        assert await reader.read(KEY, job, world.pods_of(job)) == "", "too early to read"
        return await reader.read(KEY, job, world.pods_of(job))

    return asyncio.run(both())


@pytest.mark.parametrize(
    "prefix", ["", "Error creating: ", "(combined from similar events): Error creating: "]
)
def test_the_servers_words_stand_alone(prefix: str) -> None:
    assert read(event(prefix + WORDS)) == WORDS


def test_the_newest_of_several_counts() -> None:
    assert read(event("old", 1), event(WORDS, 9), event("older", 0)) == WORDS


def test_the_new_form_of_events_is_read() -> None:
    series = {"count": 3, "lastObservedTime": (START + timedelta(seconds=5)).isoformat()}
    new = {"source": {}, "reportingComponent": "job-controller", "lastTimestamp": None}
    assert read(event(WORDS, series=series, **new)) == WORDS


def test_what_was_refused_before_a_pod_was_created_is_over() -> None:
    assert read(event(WORDS, 20), pods=True) == ""
    assert read(event(WORDS, 40), pods=True) == WORDS


@pytest.mark.parametrize(
    "garbage",
    [
        {},
        {"source": None},
        {"source": "job-controller"},
        event(WORDS, lastTimestamp="yesterday"),
        event(WORDS, lastTimestamp=7),
        event(WORDS, lastTimestamp=None),
        event(WORDS, source={"component": "somebody"}),
        event("", 99),
        event(WORDS, series=[1]),
    ],
)
def test_events_of_any_form_harm_nobody(garbage: Any) -> None:
    assert read(garbage) == ""
    assert read(garbage, event(WORDS, 1)) == WORDS


def test_a_role_without_the_right_leaves_the_reason_out() -> None:
    assert read(error=errors.ForbiddenError("cannot list events")) == ""


def test_events_are_read_at_intervals_and_anew_for_another_job() -> None:
    world = World()
    world.settle()
    job = world.jobs["mug-preflight"]
    api = Events(event(WORDS))
    reader = RefusalReader(cast(Api, api), iter((0, 1, 2, 3, 4, 4.6, 5)).__next__)

    async def several() -> list[str]:
        found = [await reader.read(KEY, job, []) for _ in range(6)]
        return [*found, await reader.read(KEY, replace(job, uid="another"), [])]

    assert asyncio.run(several()) == ["", "", WORDS, WORDS, WORDS, WORDS, ""]
    assert api.requests == [f"involvedObject.uid={job.uid},reason=FailedCreate"] * 2


def test_slow_reads_of_one_namespace_take_up_one_worker() -> None:
    world = World()
    world.settle()
    job = world.jobs["mug-preflight"]
    events = Events(event(WORDS))
    times = {"now": 0.0}
    reader = RefusalReader(cast(Api, events), lambda: times["now"])

    async def work() -> None:
        keys = [KEY, Key(KEY.namespace, "dog"), Key("other", "mug")]
        for key in keys:
            assert await reader.read(key, job, []) == ""
        times["now"] = 3
        events.answer.clear()
        slow = asyncio.create_task(reader.read(keys[0], job, []))
        await asyncio.sleep(0)
        assert await reader.read(keys[1], job, []) == ""
        other = asyncio.create_task(reader.read(keys[2], job, []))
        await asyncio.sleep(0)
        assert len(events.requests) == 2
        events.answer.set()
        assert await slow == await other == WORDS
        assert await reader.read(keys[1], job, []) == WORDS

    asyncio.run(asyncio.wait_for(work(), 5))


def test_events_that_take_too_long_to_read_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "MAX_SECONDS", 0.05)
    world = World()
    world.settle()
    events = Events(event(WORDS))
    reader = RefusalReader(cast(Api, events), iter((0, 3, 6)).__next__)

    async def work() -> None:
        events.answer.clear()
        for _ in range(2):
            assert await reader.read(KEY, world.jobs["mug-preflight"], []) == ""
        events.answer.set()
        assert await reader.read(KEY, world.jobs["mug-preflight"], []) == WORDS

    asyncio.run(asyncio.wait_for(work(), 5))
