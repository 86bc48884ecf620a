"""The server, by the official client of OpenAI's API."""

import asyncio
import base64
import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from dreambooth_api.contract.exit_codes import ExitCode
from dreambooth_api.images.generation import Generation
from dreambooth_api.models.job import DreamBoothJob
from dreambooth_trainer.process.signals import StopSignal
from dreambooth_trainer.process.topology import Topology
from dreambooth_trainer.run.generate import generate
from dreambooth_trainer.serving.engine import engine
from dreambooth_trainer.serving.engine.mixing import CannotMixError
from dreambooth_trainer.serving.engine.queue import Event, Finished, Ticket
from dreambooth_trainer.serving.http.plan import make_plan
from dreambooth_trainer.serving.http.requests import ImagesRequest
from dreambooth_trainer.serving.http.schemas import Error, ImageEvent, Images, Model, Models
from dreambooth_trainer.serving.parts import make_parts
from dreambooth_trainer.serving.settings import ServingSettings
from dreambooth_trainer.telemetry.telemetry import Telemetry
from tests.ports import free_ports
from tests.trainer.serving.server import Serving, serving, write_run

PROMPT = "a photo of sks mug"
QUEUE = 12


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, random_model: Path) -> Path:
    """Two LoRAs and a whole model; the mug has an earlier run, and a model of its last step."""
    folder = tmp_path_factory.mktemp("results")
    write_run(folder, random_model, "whole", "uid-0", seed=None)
    for name, uid, seed in (("mug", "uid-old", 3), ("cup", "uid-1", 2), ("mug", "uid-new", 1)):
        time.sleep(0.02)  # runs have an order
        write_run(folder, random_model, name, uid, seed=seed)
    mugs = folder / "default" / "mug"
    shutil.copytree(mugs / "uid-old" / "export", mugs / "uid-new" / "export-last")
    return folder


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Serving]:
    with serving(root, adapters=1, queued_images=QUEUE) as running:
        yield running


@pytest.fixture
def client(server: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as made:
        yield made


def pixels(data: str | bytes) -> np.ndarray:
    raw = base64.b64decode(data) if isinstance(data, str) else data
    return np.asarray(Image.open(io.BytesIO(raw))).astype(int)


def images(client: openai.OpenAI, model: str, n: int = 1, **extra: Any) -> list[np.ndarray]:
    answer = client.images.generate(
        model=model, prompt=PROMPT, n=n, extra_body={"seed": 5, **extra}
    )
    assert answer.data is not None
    return [pixels(each.b64_json or "") for each in answer.data]


def generated(root: Path, folder: Path, run: str, **wanted: Any) -> list[np.ndarray]:
    """What `dreambooth generate` makes of the same result."""
    job = DreamBoothJob.model_validate(json.loads((root / run / "run.json").read_text())["job"])
    request = Generation(
        root=f"file://{root / run}", folder=str(folder), prompts=[PROMPT], seed=5, **wanted
    )
    file = folder.with_suffix(".json")
    file.write_text(request.model_dump_json())
    generate(job, Topology(), StopSignal(), Telemetry(job, Topology()), file)
    return [
        pixels((folder / f"a-photo-of-sks-mug-{5 + index}.png").read_bytes())
        for index in range(request.count)
    ]


def test_results_are_listed_the_newest_first(client: openai.OpenAI) -> None:
    models = list(client.models.list())
    assert [model.id for model in models] == ["mug", "mug@last", "cup", "mug@uid-old", "whole"]
    assert models[0].owned_by == "default"
    assert client.models.retrieve("mug@uid-old").id == "mug@uid-old"


def test_images_are_those_of_generate_whatever_was_loaded_before(
    client: openai.OpenAI, root: Path, tmp_path: Path, server: Serving
) -> None:
    runs = {
        "mug": "default/mug/uid-new",
        "cup": "default/cup/uid-1",
        "whole": "default/whole/uid-0",
    }
    expected = {name: generated(root, tmp_path / name, run, count=3) for name, run in runs.items()}
    # One adapter stays loaded: each of these loads another one.
    for name in ("mug", "cup", "mug", "whole", "mug", "mug"):
        for image, other in zip(images(client, name, n=3), expected[name], strict=True):
            np.testing.assert_array_equal(image, other)
    base = images(client, "cup", adapter_weight=0.0)
    np.testing.assert_array_equal(base[0], images(client, "mug", adapter_weight=0.0)[0])
    # The base model is the whole one here.
    np.testing.assert_array_equal(base[0], images(client, "whole")[0])
    assert (base[0] != expected["cup"][0]).any()
    text = httpx.get(f"{server.url}/metrics").text
    assert 'dreambooth_serving_images_total{model="mug"} 13.0' in text
    assert 'dreambooth_serving_model_uses_total{loaded="true"} 1.0' in text
    for name in ("request_seconds", "first_event_seconds"):
        assert f"dreambooth_serving_{name}_count 9.0" in text


def test_the_model_of_the_last_step_is_beside_the_best_one(client: openai.OpenAI) -> None:
    [last], [same], [best] = (images(client, each) for each in ("mug@last", "mug@uid-old", "mug"))
    np.testing.assert_array_equal(last, same)
    assert (last != best).any()


ASKED = [("mug", 5, 1.0), ("cup", 5, 1.0), ("mug", 6, 1.0), ("mug@uid-old", 5, 0.5)]


def made_at_once(root: Path, adapters: int) -> tuple[list[np.ndarray], int]:
    """The images of `ASKED`, which all wait when the engine starts, and in how many batches."""
    parts = make_parts(ServingSettings(root=f"file://{root}", adapters=adapters))
    events: list[list[Event]] = [[] for _ in ASKED]
    for (model, seed, weight), each in zip(ASKED, events, strict=True):
        result = parts.catalog.find(model)
        assert result is not None
        wanted = ImagesRequest(prompt=PROMPT, adapter_weight=weight)
        plan = make_plan(result, *parts.models.describe(result), wanted, seed)
        parts.engine.submit(Ticket(plan.key, plan.use, PROMPT, plan.seeds, 0, each.append))
    parts.engine.start()
    parts.engine.stop(60)
    finished = [event for each in events for event in each if isinstance(event, Finished)]
    batches = parts.metrics.registry.get_sample_value("dreambooth_serving_batch_images_count")
    return [np.asarray(event.image).astype(int) for event in finished], int(batches or 0)


@pytest.mark.filterwarnings("ignore:Adapter .* was active")  # nobody else uses one here
def test_the_result_that_was_used_last_stays_on_the_device(root: Path) -> None:
    parts = make_parts(ServingSettings(root=f"file://{root}", adapters=2))

    def load(name: str) -> bool:
        result = parts.catalog.find(name)
        assert result is not None
        return parts.models.load(result).was_loaded

    assert [load(name) for name in ("mug", "cup", "mug", "mug@uid-old")] == [
        False,
        False,
        True,
        False,
    ]
    assert [load(name) for name in ("mug", "cup")] == [True, False]


def test_results_appear_when_jobs_finish(tmp_path: Path, random_model: Path) -> None:
    write_run(tmp_path, random_model, "mug", "uid-1", seed=1)
    settings = ServingSettings(root=f"file://{tmp_path}", refresh_seconds=0)
    catalog = make_parts(settings).catalog
    [before] = catalog.results()
    write_run(tmp_path, random_model, "cup", "uid-2", seed=2)
    assert {each.id for each in catalog.results()} == {"cup", "mug"}
    write_run(tmp_path, random_model, "mug", "uid-1", seed=3)  # it went on, and exported again
    after = catalog.find("mug")
    assert after is not None
    assert after.version != before.version


def test_loras_are_mixed_in_one_batch_and_each_image_is_that_of_its_own(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, batches = made_at_once(root, adapters=1)
    assert batches == 3
    together, batches = made_at_once(root, adapters=3)
    assert batches == 1
    # Sums over other batches may round to the next of 256 shades.
    np.testing.assert_allclose(together, alone, rtol=0, atol=1)
    assert np.abs(alone[0] - alone[1]).max() > 1

    # A model whose layers see no row for each image makes them one result after the other.
    @contextmanager
    def fail(_: object, adapters: list[str]) -> Iterator[None]:
        yield
        if len(set(adapters)) > 1:
            raise CannotMixError

    monkeypatch.setattr(engine, "mixed", fail)
    apart, batches = made_at_once(root, adapters=3)
    assert batches == 3
    np.testing.assert_array_equal(apart, alone)


def test_an_image_can_be_answered_by_its_url(client: openai.OpenAI) -> None:
    answer = client.images.generate(
        model="mug", prompt=PROMPT, response_format="url", size="96x64",
        extra_body={"steps": 2, "seed": 1},
    )  # fmt: skip
    assert answer.data is not None
    url = answer.data[0].url
    assert url is not None
    image = Image.open(io.BytesIO(httpx.get(url).content))
    assert image.size == (96, 64)
    made_by = json.loads(image.text["dreambooth"])
    assert made_by["seed"] == 1
    assert {"model", "precision", "version", "torch", "sampler", "result"} <= made_by.keys()
    assert httpx.get(f"{url}x").status_code == 404


def test_answers_are_those_of_the_openapi_page(client: openai.OpenAI, server: Serving) -> None:
    page = httpx.get(f"{server.url}/openapi.json").json()
    paths = page["paths"]
    assert paths["/v1/models"]["get"]["security"] == [{"HTTPBearer": []}]
    answers = paths["/v1/images/generations"]["post"]["responses"]
    assert answers.keys() == {"200", "4XX", "5XX"}
    assert answers["200"]["content"].keys() == {"application/json", "text/event-stream"}
    Models.model_validate(httpx.get(f"{server.url}/v1/models").json())
    Model.model_validate(httpx.get(f"{server.url}/v1/models/mug").json())
    url = f"{server.url}/v1/images/generations"
    body = {"model": "mug", "prompt": PROMPT}
    Images.model_validate(httpx.post(url, json=body, timeout=60).json())
    refused = httpx.post(url, json={**body, "n": "many"})
    assert refused.status_code == 400
    assert Error.model_validate(refused.json()).error.param == "n"
    text = httpx.post(url, json={**body, "stream": True, "partial_images": 1}, timeout=60).text
    events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data")]
    assert [ImageEvent.model_validate_json(each).type.rpartition(".")[2] for each in events] == [
        "partial_image",
        "completed",
    ]
    counted = httpx.get(f"{server.url}/metrics").text
    assert re.search(r'dreambooth_serving_requests_total\{status="400"\} [1-9]', counted)


def test_a_stream_has_partial_images_and_then_the_final_one(client: openai.OpenAI) -> None:
    stream = client.images.generate(
        model="mug", prompt=PROMPT, stream=True, partial_images=2,
        extra_body={"seed": 5, "steps": 6},
    )  # fmt: skip
    events = list(stream)
    assert [event.type for event in events] == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    assert [getattr(event, "partial_image_index", None) for event in events] == [0, 1, None]
    final = images(client, "mug", steps=6)[0]
    np.testing.assert_array_equal(pixels(events[-1].b64_json), final)
    distances = [np.abs(pixels(event.b64_json) - final).mean() for event in events]
    assert distances[0] > distances[1] > distances[2] == 0


def test_a_client_that_leaves_frees_the_device_and_a_full_queue_refuses(
    client: openai.OpenAI, server: Serving
) -> None:
    slow = client.images.generate(
        model="mug", prompt=PROMPT, stream=True, partial_images=1,
        extra_body={"steps": 480, "seed": 1, "sampler": "ddim"},
    )  # fmt: skip
    assert next(iter(slow)).type == "image_generation.partial_image"
    waiting = client.images.generate(
        model="cup", prompt=PROMPT, n=10, stream=True, partial_images=0, extra_body={"seed": 1}
    )
    with pytest.raises(openai.RateLimitError, match="10 images wait already") as refused:
        client.images.generate(model="cup", prompt=PROMPT, n=3)
    assert int(refused.value.response.headers["retry-after"]) >= 1
    # What the chart's HorizontalPodAutoscaler scales by.
    assert "dreambooth_serving_queued_images 10.0" in httpx.get(f"{server.url}/metrics").text
    slow.close()
    began = time.monotonic()
    assert len(list(waiting)) == 10
    # So many steps take minutes.
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": "big"}, "size: .*must be auto or WIDTHxHEIGHT"),
        ({"size": "68x68"}, "size: width 68: must be a multiple of 8"),
        ({"n": 11}, "n: at most 10 images a request"),
        ({"extra_body": {"steps": 0}}, r"steps: must be at least 1 \(got 0\)"),
        ({"extra_body": {"steps": "many"}}, r"steps: must be a whole number \(got 'many'\)"),
        ({"extra_body": {"sampler": "slow"}}, r"sampler: must be 'dpm.* or .* \(got 'slow'\)"),
        ({"extra_body": {"adapter_weight": "x"}}, "adapter_weight: must be a number"),
        ({"extra_body": {"stream": "maybe"}}, "stream: must be true or false"),
        ({"prompt": "a" * 513}, "prompt: must have at most 512 characters; shorten it"),
        ({"size": "9999x64"}, "size: must be auto or WIDTHxHEIGHT with sides of 64 to 2048"),
        ({"model": "whole", "extra_body": {"adapter_weight": 0.5}}, "adapter_weight: .* without"),
        ({"prompt": ""}, "prompt: must be text on one line"),
    ],
)
def test_what_a_model_does_not_take_is_refused(
    client: openai.OpenAI, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as refused:
        client.images.generate(**{"model": "mug", "prompt": PROMPT, **fields})
    assert refused.value.param == message.partition(":")[0]


def test_answers_and_streams_warn_of_what_may_not_be_meant(client: openai.OpenAI) -> None:
    prompt, unusual = "many words " * 10, {"size": "64x128", "model": "mug"}
    extra = {"steps": 1, "stepz": 5, "quality": "high", "style": "vivid", "metadata": {}}
    answer = client.images.generate(prompt=prompt, extra_body=extra, **unusual)
    field, length, size = answer.model_extra["warnings"]
    assert field == "stepz: is no field, and is ignored; did you mean steps?"
    assert re.search(r"prompt: .* tokens, and the model reads the first 77; shorten it", length)
    assert size.startswith("size: 64x128 is far from 64x64, which the model was trained at")
    *_, last = client.images.generate(
        prompt=prompt, extra_body=extra, stream=True, partial_images=0, **unusual
    )
    assert last.model_extra["warnings"] == [field, length, size]
    plain = client.images.generate(prompt=PROMPT, model="mug", extra_body={"steps": 1})
    assert plain.model_extra["warnings"] == []


def test_head_is_get_without_content(client: openai.OpenAI, server: Serving) -> None:
    made = client.images.generate(
        model="mug", prompt=PROMPT, response_format="url", extra_body={"steps": 1}
    )
    assert made.data is not None
    for url in (str(made.data[0].url), f"{server.url}/", f"{server.url}/v1/models"):
        got, head = httpx.get(url), httpx.head(url)
        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-type", "content-length"):
            assert head.headers[name] == got.headers[name]
    assert httpx.head(f"{server.url}/v1/images/generations").status_code == 405


def test_a_model_that_is_not_there_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="model dog: no such result; there are: mug"):
        client.images.generate(model="dog", prompt=PROMPT)


def test_a_request_needs_a_token_with_images_left_and_has_a_limited_time(root: Path) -> None:
    with (
        serving(root, timeout_seconds=0.2, tokens_file=str(_tokens(root))) as running,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="wrong", max_retries=0) as stranger,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="secret", max_retries=0) as known,
    ):
        with pytest.raises(openai.AuthenticationError, match="a valid token is needed"):
            stranger.models.list()
        with pytest.raises(openai.InternalServerError, match="not done within"):
            known.images.generate(
                model="mug", prompt=PROMPT, extra_body={"steps": 500, "sampler": "ddim"}
            )
        stream = known.images.generate(
            model="mug", prompt=PROMPT, stream=True, extra_body={"steps": 500, "sampler": "ddim"}
        )
        with pytest.raises(openai.APIError, match="not done within"):
            list(stream)  # its errors are events
        # It counts, as it had a place in the queue; others have quotas of their own.
        limited = known.with_options(api_key="few-images")
        with pytest.raises(openai.BadRequestError, match="n: the token has 2 images an hour"):
            limited.images.generate(model="mug", prompt=PROMPT, n=3)
        slow: dict[str, Any] = {"extra_body": {"steps": 500, "sampler": "ddim"}}
        for client in (limited, known):
            with pytest.raises(openai.InternalServerError, match="not done within"):
                client.images.generate(model="mug", prompt=PROMPT, n=2, **slow)
        with pytest.raises(openai.RateLimitError, match="2 images an hour are used up") as refused:
            limited.images.generate(model="mug", prompt=PROMPT)
        assert 3500 < int(refused.value.response.headers["retry-after"]) <= 3600
        assert httpx.get(f"{running.url}/healthz").text == "ok"
        assert httpx.get(f"{running.url}/readyz").text == "ok"


def _tokens(root: Path) -> Path:
    file = root.parent / "tokens"
    file.write_text("other\nsecret\nfew-images:2\n")
    return file


def test_a_body_is_bounded(server: Serving) -> None:
    url, kind = f"{server.url}/v1/images/generations", {"Content-Type": "application/json"}
    assert httpx.post(url, content=b"x" * 70_000, headers=kind).status_code == 413
    assert httpx.post(url, content=iter([b"x"]), headers=kind).status_code == 411


@pytest.mark.slow
def test_sixty_four_clients_are_all_served(root: Path) -> None:
    async def ask(client: openai.AsyncOpenAI, number: int) -> str:
        answer = await client.images.generate(
            model="mug" if number % 2 else "cup", prompt=PROMPT,
            extra_body={"steps": 2, "seed": number},
        )  # fmt: skip
        assert answer.data is not None
        return str(answer.data[0].b64_json)

    async def ask_all(url: str) -> list[str]:
        async with openai.AsyncOpenAI(base_url=url, api_key="any", max_retries=0) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(64)))

    with serving(root) as running:
        found = asyncio.run(ask_all(f"{running.url}/v1"))
        text = httpx.get(f"{running.url}/metrics").text
    assert len(set(found)) == 64
    # They are made together: the first batch may be smaller, while the others arrive.
    (batches,) = re.findall(r"dreambooth_serving_batch_images_count (\d+)", text)
    assert int(float(batches)) < 32


@contextmanager
def started(root: Path, folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[str], str]]:
    """The server as a process of its own; with its command, and its URL."""
    (port,) = free_ports(1)
    settings = folder / "settings.json"
    settings.write_text(json.dumps({"root": f"file://{root}", "port": port, "stopSeconds": 300}))
    command = [sys.executable, "-m", "dreambooth_trainer.serving", "--settings", str(settings)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "serving on" not in (line := process.stderr.readline()):
            assert line, "the server has ended"
        yield process, command, f"http://127.0.0.1:{port}"


def test_a_request_that_is_under_way_is_finished_when_the_server_is_stopped(
    root: Path, tmp_path: Path
) -> None:
    with started(root, tmp_path) as (process, _, url):
        # A proxy on another machine, to which the client came by https.
        proxy = httpx.HTTPTransport(local_address="127.0.0.2")
        with httpx.Client(transport=proxy, timeout=60) as elsewhere:
            answer = elsewhere.post(
                f"{url}/v1/images/generations",
                json={"model": "mug", "prompt": PROMPT, "response_format": "url", "steps": 1},
                headers={"X-Forwarded-Proto": "https"},
            )
        assert answer.json()["data"][0]["url"].startswith("https://127.0.0.1:")
        with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=9) as client:
            stream = client.images.generate(
                model="mug", prompt=PROMPT, stream=True, partial_images=1,
                extra_body={"steps": 40, "sampler": "ddim"},
            )  # fmt: skip
            events = iter(stream)
            assert next(events).type == "image_generation.partial_image"
            process.terminate()
            assert next(events).type == "image_generation.completed"
        assert process.wait(60) == 0


def test_an_idle_server_stops_and_a_port_that_is_taken_is_named(root: Path, tmp_path: Path) -> None:
    with started(root, tmp_path) as (process, command, url):
        second = subprocess.run(command, capture_output=True, text=True, check=False)
        assert second.returncode == ExitCode.ERROR
        assert second.stderr == (
            f"{url.removeprefix('http://')}: another program listens there; choose another --port\n"
        )
        httpx.get(f"{url}/healthz", timeout=60).raise_for_status()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_requests_by_another_host_name_are_refused(server: Serving) -> None:
    answer = httpx.get(f"{server.url}/v1/models", headers={"Host": "attacker.example"})
    assert answer.status_code == 421


def test_no_page_of_another_origin_may_read_an_answer(server: Serving) -> None:
    origin = {"Origin": "https://attacker.example"}
    asked = {**origin, "Access-Control-Request-Method": "POST"}
    read = httpx.get(f"{server.url}/v1/models", headers=origin)
    assert read.status_code == 200
    preflight = httpx.options(f"{server.url}/v1/images/generations", headers=asked)
    for answer in (read, preflight):
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_bodies_have_a_length_and_are_json(server: Serving) -> None:
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(
            b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n"
            b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        assert connection.recv(1000).startswith(b"HTTP/1.1 411")
    answer = httpx.post(
        f"{server.url}/v1/images/generations",
        content="{'prompt'",
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("body: ")
    assert answer.json()["error"]["param"] is None


def test_a_base_model_elsewhere_is_used_as_the_job_used_it(root: Path, random_model: Path) -> None:
    folder = root.parent / "skipped"
    run = write_run(folder, random_model, "mug", "uid-1", seed=1)
    record = json.loads((run / "run.json").read_text())
    record["job"]["spec"]["model"]["clipSkip"] = 2
    (run / "run.json").write_text(json.dumps(record))
    # A record that cannot be read leaves out its own run alone.
    deep = write_run(folder, random_model, "deep", "uid-2", seed=1)
    (deep / "run.json").write_text('{"job": ' + "[" * 100_000)
    parts = make_parts(ServingSettings(root=f"file://{folder}", base=str(random_model)))
    [result] = parts.catalog.results()
    job, _ = parts.models.describe(result)
    assert job.spec.model.clip_skip == 2


def test_a_whole_model_needs_no_base_model(tmp_path: Path, random_model: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(random_model, base)
    write_run(tmp_path / "results", base, "whole", "uid-1", seed=None)
    shutil.rmtree(base)
    with (
        serving(tmp_path / "results") as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="any") as client,
    ):
        assert images(client, "whole")[0].shape == (64, 64, 3)


def test_a_client_that_leaves_without_a_stream_frees_the_device_too(server: Serving) -> None:
    url = f"{server.url}/v1/images/generations"
    slow = {"model": "mug", "prompt": PROMPT, "n": 8, "steps": 480, "sampler": "ddim"}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(url, json=slow, timeout=2)
    answer = httpx.post(url, json={"model": "mug", "prompt": PROMPT, "steps": 1}, timeout=20)
    assert answer.status_code == 200
