"""Keys are processed one at a time, in order, when due, and after a back-off where they failed."""

from __future__ import annotations

import asyncio

import pytest

from dreambooth_operator.controller.watch.queue import MAX_BACKOFF_SECONDS, Queue
from tests.operator.controller.loops import run


def _queue() -> Queue[str]:
    return Queue(jitter=lambda: 1.0)


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _is_empty(queue: Queue[str]) -> bool:
    try:
        async with asyncio.timeout(0.001):
            await queue.get()
    except TimeoutError:
        return True
    return False


def test_key_added_twice_is_due_once() -> None:
    async def work() -> None:
        queue = _queue()
        queue.add("a")
        queue.add("b")
        queue.add("a")
        assert [await queue.get(), await queue.get()] == ["a", "b"]
        assert await _is_empty(queue)

    run(work())


def test_key_added_while_active_is_due_again_when_that_is_done() -> None:
    async def work() -> None:
        queue = _queue()
        queue.add("a")
        key = await queue.get()
        queue.add("a")
        assert await _is_empty(queue)
        queue.done(key)
        assert await queue.get() == "a"

    run(work())


def test_earliest_of_several_times_wins() -> None:
    async def work() -> None:
        queue = _queue()
        for after in (30, 10, 20):
            queue.add("a", after=after)
        await queue.get()
        assert _now() == pytest.approx(10)
        queue.done("a")
        assert await _is_empty(queue)

    run(work())


def test_key_due_now_is_not_due_later_as_well() -> None:
    async def work() -> None:
        queue = _queue()
        queue.add("a", after=30)
        queue.add("a")
        assert await queue.get() == "a"
        assert _now() == 0
        queue.done("a")
        async with asyncio.timeout(100):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(60):
                    await queue.get()

    run(work())


def test_delay_of_an_active_key_counts_from_when_it_was_added() -> None:
    async def work() -> None:
        queue = _queue()
        queue.add("a")
        await queue.get()
        queue.add("a", after=60)
        await asyncio.sleep(15)
        queue.done("a")
        await queue.get()
        assert _now() == pytest.approx(60)

    run(work())


def test_back_off_doubles_with_each_error_up_to_a_limit() -> None:
    async def work() -> None:
        queue = _queue()
        queue.add("a")
        waits = []
        for _ in range(9):
            await queue.get()
            waits.append(queue.failed("a"))
        assert waits == [1, 2, 4, 8, 16, 32, 60, 60, MAX_BACKOFF_SECONDS]

    run(work())


def test_success_ends_the_back_off() -> None:
    async def work() -> None:
        queue = _queue()
        queue.add("a")
        await queue.get()
        queue.failed("a")
        await queue.get()
        assert _now() == pytest.approx(1)
        queue.add("a")
        queue.done("a")
        await queue.get()
        assert _now() == pytest.approx(1)
        assert queue.failed("a") == 1

    run(work())


def test_back_off_is_kept_when_the_key_is_added_meanwhile() -> None:
    async def work() -> None:
        queue = _queue()
        queue.add("a")
        await queue.get()
        queue.failed("a", retry_after=7)
        queue.add("a")
        await queue.get()
        assert _now() == pytest.approx(7)

    run(work())


def test_back_off_has_jitter() -> None:
    async def work() -> None:
        queue: Queue[str] = Queue(jitter=lambda: 0.0)
        queue.add("a")
        await queue.get()
        assert queue.failed("a") == 0.5

    run(work())


def test_depth_and_age_count_waiting_keys() -> None:
    async def work() -> None:
        queue = _queue()
        assert (queue.depth, queue.oldest_age) == (0, 0)
        queue.add("a")
        queue.add("later", after=99)
        await asyncio.sleep(4)
        queue.add("b")
        assert (queue.depth, queue.oldest_age) == (2, pytest.approx(4))
        await queue.get()
        assert (queue.depth, queue.oldest_age) == (1, 0)

    run(work())
