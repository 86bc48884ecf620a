"""What the server decides without a device: names, batches, partial images, access."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from dreambooth_trainer.serving.access import Tokens
from dreambooth_trainer.serving.catalog import find_results
from dreambooth_trainer.serving.engine import Engine
from dreambooth_trainer.serving.metrics import ServingMetrics
from dreambooth_trainer.serving.pictures import Pictures
from dreambooth_trainer.serving.requests import ImagesRequest
from dreambooth_trainer.serving.settings import ServingSettings, names_loopback
from dreambooth_trainer.serving.stream import UNREAD_EVENTS, Stream
from dreambooth_trainer.serving.work import (
    BatchKey,
    Failed,
    Partial,
    QueueClosedError,
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
    with pytest.raises(QueueClosedError):
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
    with pytest.raises(ValidationError, match=r"from other machines: .*--tokens.*--insecure"):
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


def test_a_file_without_tokens_does_not_serve_everybody(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("\n")
    with pytest.raises(ValidationError, match="holds no token; write one a line"):
        ServingSettings(root="file:///out", tokens_file=str(tmp_path / "tokens"))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("127.0.0.1:8080", True), ("127.0.0.2", True), ("localhost", True), ("[::1]:80", True),
        ("[::1]", True), ("", False), ("evil.example", False), ("localhost.evil.example", False),
        ("127.0.0.1@evil.example", False), ("[::1", False), ("testserver", False),
    ],
)  # fmt: skip
def test_loopback_has_few_names(header: str, expected: bool) -> None:
    assert names_loopback(header) is expected


def test_null_is_the_default_of_a_field() -> None:
    nulls = dict.fromkeys(["n", "output_format", "output_compression", "adapter_weight", "seed"])
    assert ImagesRequest.model_validate({"prompt": "a mug", **nulls}).n == 1


def test_an_engine_whose_device_has_failed_takes_no_more_requests() -> None:
    def fail(*_: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    catalog: Any = SimpleNamespace(find=lambda _: True)
    models: Any = SimpleNamespace(use=fail)
    engine = Engine(models, catalog, 20, ServingMetrics())
    seen: list[Any] = []
    for model in ("mug", "cup"):
        engine.submit(Ticket(key(model), "a mug", range(1), 0, seen.append))
    engine.start()
    engine.stop(60)
    assert [(type(each), each.status) for each in seen] == [(Failed, 503), (Failed, 503)]
    assert not engine.is_alive
    with pytest.raises(QueueClosedError):
        engine.submit(ticket("mug", 1))


def test_partial_images_that_nobody_reads_are_left_out() -> None:
    submitted: list[Ticket] = []
    engine: Any = SimpleNamespace(submit=submitted.append)

    async def run() -> int:
        stream = Stream(engine, ServingMetrics(), key("mug"), "a mug", range(1), 50, 60)
        for number in range(50):
            submitted[0].send(Partial(0, number, Image.new("RGB", (1, 1))))
            await asyncio.sleep(0)
        submitted[0].send(Failed("the end"))
        return len([event async for event in stream.events()])

    assert asyncio.run(run()) == UNREAD_EVENTS + 1
