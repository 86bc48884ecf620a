"""What the server decides without a device: names, batches, partial images, access."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from dreambooth_trainer.serving.access import Tokens
from dreambooth_trainer.serving.catalog import find_results
from dreambooth_trainer.serving.pictures import Pictures
from dreambooth_trainer.serving.settings import ServingSettings
from dreambooth_trainer.serving.work import (
    BatchKey,
    QueueFullError,
    Ticket,
    WorkQueue,
    partial_steps,
)


def stored(relative: str, hour: int) -> Any:
    modified = datetime(2026, 1, 1, hour, tzinfo=UTC)
    return SimpleNamespace(relative=relative, version=str(hour), modified=modified)


def test_results_are_runs_with_an_export_by_names_that_stay_short() -> None:
    listing = [
        stored("a/mug/uid-1/run.json", 1),
        stored("a/mug/uid-1/export/model.safetensors", 2),
        stored("a/mug/uid-2/run.json", 1),
        stored("a/mug/uid-2/export/model.safetensors", 3),
        stored("a/mug/uid-3/run.json", 9),  # it is still training
        stored("b/cup/uid-4/run.json", 1),
        stored("b/cup/uid-4/export/unet/model.safetensors", 4),
        stored("b/cup/uid-4/export/model_index.json", 4),
        stored("c/cup/uid-5/run.json", 1),
        stored("c/cup/uid-5/export/model_index.json", 5),
        stored("b/hat/uid-6/export/model_index.json", 6),  # copied without its run.json
    ]
    found = find_results("s3://bucket/out", listing)  # type: ignore[arg-type]
    assert [(each.id, each.layout.root) for each in found] == [
        ("c/cup", "s3://bucket/out/c/cup/uid-5"),
        ("b/cup", "s3://bucket/out/b/cup/uid-4"),
        ("mug", "s3://bucket/out/a/mug/uid-2"),
        ("mug@uid-1", "s3://bucket/out/a/mug/uid-1"),
    ]
    alone = [stored("run.json", 1), stored("export/model_index.json", 2)]
    (only,) = find_results("file:///out/a/mug/uid-1", alone)  # type: ignore[arg-type]
    assert (only.id, only.layout.root) == ("mug", "file:///out/a/mug/uid-1")


def key(model: str) -> BatchKey:
    return BatchKey(model, "ddim", 4, 2.0, "", 64, 64, 1.0)


def ticket(model: str, count: int) -> Ticket:
    return Ticket(key(model), "a mug", range(count), 0, lambda event: None)


def test_what_has_waited_longest_comes_next_with_what_can_be_made_with_it() -> None:
    queue = WorkQueue(20, lambda _: 8)
    mug, cup, more = ticket("mug", 3), ticket("cup", 2), ticket("mug", 10)
    for each in (mug, cup, more):
        queue.put(each)
    first = queue.take()
    assert [(item.ticket, item.index) for item in first] == [
        *((mug, index) for index in range(3)),
        *((more, index) for index in range(5)),
    ]
    assert {item.ticket for item in queue.take()} == {cup}
    more.cancelled = True
    queue.close()
    assert queue.take() == []


def test_a_queue_is_bounded_by_images_that_somebody_waits_for() -> None:
    queue = WorkQueue(4, lambda _: 8)
    gone = ticket("mug", 3)
    queue.put(gone)
    with pytest.raises(QueueFullError):
        queue.put(ticket("mug", 2))
    gone.cancelled = True
    queue.put(ticket("mug", 4))
    queue.close()
    with pytest.raises(QueueFullError):
        queue.put(ticket("mug", 1))


@pytest.mark.parametrize(
    ("count", "steps", "expected"),
    [(0, 30, []), (1, 30, [2]), (3, 30, [2, 11, 21]), (3, 2, [1]), (2, 1, []), (50, 4, [2, 3])],
)
def test_the_first_partial_image_comes_after_two_steps(
    count: int, steps: int, expected: list[int]
) -> None:
    assert partial_steps(count, steps) == expected


def test_tokens_are_accepted_as_bearers() -> None:
    tokens = Tokens(["one", "two"])
    assert tokens.accept("Bearer two")
    assert tokens.accept("bearer one")
    for refused in (None, "", "two", "Basic two", "Bearer ", "Bearer tw", "Bearer two!"):
        assert not tokens.accept(refused)
    assert Tokens([]).accept(None)


def test_other_machines_are_served_with_tokens_or_on_purpose(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for host in ("127.0.0.1", "localhost", "::1"):
        ServingSettings(root="file:///out", host=host)
    with pytest.raises(ValidationError, match="can be reached from other machines"):
        ServingSettings(root="file:///out", host="0.0.0.0")
    ServingSettings(root="file:///out", host="0.0.0.0", insecure=True)
    monkeypatch.setenv("DREAMBOOTH_SERVING_TOKENS", "one two")
    made = ServingSettings(root="file:///out", host="0.0.0.0")
    assert made.tokens() == {"one", "two"}


def test_pictures_are_kept_as_long_as_there_is_room_and_time() -> None:
    pictures = Pictures(max_bytes=10)
    old, new = pictures.keep(b"12345678", "image/png"), pictures.keep(b"1234", "image/png")
    assert pictures.get(old) is None
    assert pictures.get(new) is not None
    gone = Pictures(lifetime=0)
    assert gone.get(gone.keep(b"1", "image/png")) is None
