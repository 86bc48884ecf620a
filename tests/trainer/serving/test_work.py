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

from dreambooth_api.contract.layout import OutputLayout
from dreambooth_api.parsing.load import load
from dreambooth_storage import StorageError
from dreambooth_trainer.export.lora import PEFT_FOLDER
from dreambooth_trainer.models.defaults import fill_defaults
from dreambooth_trainer.models.families.stable_diffusion import DEFAULTS
from dreambooth_trainer.serving.catalog import Result, find_results
from dreambooth_trainer.serving.engine import loaded
from dreambooth_trainer.serving.engine.engine import Engine
from dreambooth_trainer.serving.engine.loaded import LoadedModels
from dreambooth_trainer.serving.engine.mixing import shared_base
from dreambooth_trainer.serving.engine.queue import (
    BatchKey,
    Failed,
    ModelUse,
    Partial,
    QueueClosedError,
    QueueFullError,
    Ticket,
    WorkQueue,
    partial_steps,
)
from dreambooth_trainer.serving.http.access.quotas import QuotaError, Quotas
from dreambooth_trainer.serving.http.access.tokens import ANYBODY, Token, Tokens
from dreambooth_trainer.serving.http.pictures import Pictures
from dreambooth_trainer.serving.http.requests import MOST_CHECKED, ImagesRequest
from dreambooth_trainer.serving.http.stream import UNREAD_EVENTS, Stream
from dreambooth_trainer.serving.metrics import ServingMetrics
from dreambooth_trainer.serving.settings import ServingSettings, names_loopback

EXAMPLES = Path(__file__).parents[3] / "examples"


def stored(relative: str, hour: int) -> Any:
    modified = datetime(2026, 1, 1, hour, tzinfo=UTC)
    return SimpleNamespace(relative=relative, version=str(hour), modified=modified)


def test_results_are_runs_with_an_export_by_names_that_stay_short() -> None:
    listing = [
        stored("a/mug/uid-1/run.json", 1),
        stored("a/mug/uid-1/export/model.safetensors", 2),
        stored("a/mug/uid-2/run.json", 1),
        stored("a/mug/uid-2/export/model.safetensors", 3),
        stored("a/mug/uid-2/export-last/model.safetensors", 2),
        stored("a/mug/uid-3/run.json", 9),  # it is still exporting
        stored("a/mug/uid-3/export-last/model.safetensors", 9),
        stored("b/cup/uid-4/run.json", 1),
        stored("b/cup/uid-4/export/unet/model.safetensors", 4),
        stored("b/cup/uid-4/export/model_index.json", 4),
        stored("c/cup/uid-5/run.json", 1),
        stored("c/cup/uid-5/export/model_index.json", 5),
        stored("b/hat/uid-6/export/model_index.json", 6),  # copied without its run.json
    ]
    found = find_results("s3://bucket/out", listing)  # type: ignore[arg-type]
    assert [(each.id, each.export) for each in found] == [
        ("c/cup", "s3://bucket/out/c/cup/uid-5/export"),
        ("b/cup", "s3://bucket/out/b/cup/uid-4/export"),
        ("mug", "s3://bucket/out/a/mug/uid-2/export"),
        ("mug@last", "s3://bucket/out/a/mug/uid-2/export-last"),
        ("mug@uid-1", "s3://bucket/out/a/mug/uid-1/export"),
    ]
    alone = [stored("run.json", 1), stored("export/model_index.json", 2)]
    (only,) = find_results("file:///out/a/mug/uid-1", alone)  # type: ignore[arg-type]
    assert (only.id, only.export) == ("mug", "file:///out/a/mug/uid-1/export")


def key(base: str) -> BatchKey:
    return BatchKey(base, "ddim", 4, 2.0, "", 64, 64)


def named(name: str) -> Result:
    return Result(name, OutputLayout(f"file:///{name}"), "", datetime(2026, 1, 1, tzinfo=UTC), "")


def ticket(model: str, count: int, *, base: str = "", weight: float = 1) -> Ticket:
    use = ModelUse(named(model), weight)
    return Ticket(key(base or model), use, "a mug", range(count), 0, lambda event: None)


def queued(limit: int, models: int = 2) -> WorkQueue:
    return WorkQueue(limit, lambda _: 8, lambda _: models)


def test_what_has_waited_longest_comes_next_with_what_can_be_made_with_it() -> None:
    queue = queued(20)
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


@pytest.mark.parametrize(("name", "mixed"), [("many-subjects", True), ("several-subjects", False)])
def test_loras_without_text_encoders_are_mixed(name: str, mixed: bool) -> None:
    job = fill_defaults(load(EXAMPLES / f"{name}.yaml"), DEFAULTS)
    assert (shared_base(job) is not None) is mixed
    job.spec.training.lora.type = "dora"
    assert shared_base(job) is None


def test_results_of_one_base_model_are_mixed_each_with_one_weight() -> None:
    asked = [
        ticket("mug", 2, base="b"), ticket("cup", 2, base="b", weight=0.5),
        ticket("mug", 2, base="b", weight=0.5), ticket("hat", 2, base="b"),
        ticket("dog", 2, base="other"), ticket("cup", 1, base="b", weight=0.5),
    ]  # fmt: skip
    mug, cup, light, hat, dog, more = asked
    for models, batches in {
        2: [{mug, cup, more}, {light, hat}, {dog}],
        3: [{mug, cup, hat, more}, {light}, {dog}],
        1: [{mug}, {cup, more}, {light}, {hat}, {dog}],
    }.items():
        queue = queued(20, models)
        for each in asked:
            queue.put(each)
        queue.close()
        found = iter(queue.take, [])
        assert [{item.ticket for item in batch} for batch in found] == batches


def test_a_queue_is_bounded_by_images_that_somebody_waits_for() -> None:
    queue = queued(4)
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
    tokens = Tokens({"one": None, "two": 5}, 100)
    assert tokens.find("Bearer two") == Token("two", 5)
    assert tokens.find("bearer one") == Token("one", 100)
    for refused in (None, "", "two", "Basic two", "Bearer ", "Bearer tw", "Bearer two!"):
        assert tokens.find(refused) is None
    assert Tokens({}, None).find(None) == ANYBODY


def test_a_token_has_so_many_images_in_any_hour() -> None:
    now = 0.0
    quotas = Quotas(lambda: now)

    def ask(token: Token, images: int) -> int:
        """Seconds to wait; 0: it was charged."""
        try:
            quotas.check(token, images)
        except QuotaError as error:
            return error.wait_seconds
        quotas.charge(token, images)
        return 0

    few, more = Token("few", 4), Token("more", 8)
    assert [ask(few, 1), ask(more, 8)] == [0, 0]
    now = 1000
    assert [ask(few, 2), ask(few, 1)] == [0, 0]
    # The first image leaves the hour after 2600 seconds, the next two 1000 later.
    assert [ask(few, 1), ask(few, 2), ask(few, 4)] == [2600, 3600, 3600]
    now = 3600
    assert [ask(few, 1), ask(few, 1), ask(more, 8)] == [0, 1000, 0]
    assert ask(ANYBODY, 10**6) == 0


def test_other_machines_are_served_with_tokens_or_on_purpose(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for host in ("127.0.0.1", "localhost", "::1"):
        ServingSettings(root="file:///out", host=host)
    with pytest.raises(ValidationError, match=r"from other machines: .*--tokens.*--insecure"):
        ServingSettings(root="file:///out", host="0.0.0.0")
    ServingSettings(root="file:///out", host="0.0.0.0", insecure=True)
    with pytest.raises(ValidationError, match=r"imagesPerHour: is counted by token; .*--tokens"):
        ServingSettings(root="file:///out", images_per_hour=5)
    monkeypatch.setenv("DREAMBOOTH_SERVING_TOKENS", "one two-secret:500")
    made = ServingSettings(root="file:///out", host="0.0.0.0", images_per_hour=5)
    assert made.tokens() == {"one": None, "two-secret": 500}
    monkeypatch.setenv("DREAMBOOTH_SERVING_TOKENS", "alice:48151623")
    refused = r"a token ends with a colon and digits, .*; make that part at least 8"
    with pytest.raises(ValidationError, match=refused) as raised:
        ServingSettings(root="file:///out")  # also where nobody else could connect
    assert "48151623" not in str(raised.value)


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


def test_a_body_full_of_misspelt_fields_has_few_warnings() -> None:
    fields = {f"guidance_scale{n}": 1 for n in range(3000)}
    found = list(ImagesRequest.model_validate({"prompt": "a mug", **fields}).misspelt())
    assert found[0] == "guidance_scale0: is no field, and is ignored; did you mean guidance_scale?"
    assert len(found) <= MOST_CHECKED


def test_an_engine_whose_device_has_failed_takes_no_more_requests() -> None:
    def fail(*_: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    models: Any = SimpleNamespace(load=fail, capacity=1)
    engine = Engine(models, 20, ServingMetrics())
    seen: list[Any] = []
    for model in ("mug", "cup"):
        use = ModelUse(named(model), 1)
        engine.submit(Ticket(key(model), use, "a mug", range(1), 0, seen.append))
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
        use = ModelUse(named("mug"), 1)
        stream = Stream(engine, ServingMetrics(), key("mug"), use, "a mug", range(1), 50, 60)
        for number in range(50):
            submitted[0].send(Partial(0, number, Image.new("RGB", (1, 1))))
            await asyncio.sleep(0)
        submitted[0].send(Failed("the end"))
        return len([event async for event in stream.events()])

    assert asyncio.run(run()) == UNREAD_EVENTS + 1


def test_a_result_that_could_not_be_read_is_not_served_as_its_base_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = fill_defaults(load(EXAMPLES / "quickstart.yaml"), DEFAULTS)
    job.spec.training.method, job.spec.training.lora.type = "lora", "lokr"
    parts: Any = None
    models = LoadedModels(parts, parts, torch.device("cpu"), 1)
    monkeypatch.setattr(models, "describe", lambda _: (job, None))
    monkeypatch.setattr(loaded, "list_export", lambda *_: {f"{PEFT_FOLDER}/adapter.safetensors"})
    monkeypatch.setattr(loaded, "load_family", lambda *_, **__: object())
    added: list[None] = []

    def add(*_: object) -> None:
        added.append(None)
        if len(added) == 1:
            raise StorageError("s3://bucket", "timed out", "try again")

    monkeypatch.setattr(loaded, "add_exported", add)
    with pytest.raises(StorageError):
        models.load(named("mug"))
    assert not models.load(named("mug")).was_loaded
    assert models.load(named("mug")).was_loaded
    assert len(added) == 2
