"""Answers of a server with OpenAI's API, with what servers really do: break off, refuse, stall."""

import base64
import contextlib
import io
import json
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from PIL import Image

from dreambooth_api.models.captioning import CaptioningEndpoint
from dreambooth_trainer.captioning.answers import Caption
from dreambooth_trainer.captioning.ask import ask
from dreambooth_trainer.captioning.models import endpoint as endpoint_module
from dreambooth_trainer.captioning.models.endpoint import EndpointModel
from dreambooth_trainer.captioning.models.interface import Request, Sampling
from dreambooth_trainer.process import heartbeat
from dreambooth_trainer.process.errors import BadConfigError, BadModelError, TrainerError
from tests import loopback

Behavior = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


class Server(ThreadingHTTPServer):
    """Answers each request by the next behavior; the last one is repeated."""

    behaviors: list[Behavior]
    requests: list[dict[str, Any]]
    keys: list[str | None]


class Handler(loopback.Handler, BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.body())
        self.server.requests.append(body)
        self.server.keys.append(self.headers["Authorization"])
        left = self.server.behaviors
        (left.pop(0) if len(left) > 1 else left[0])(self, body)


def events(handler: BaseHTTPRequestHandler, *texts: str, end: bool = True) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.end_headers()
    for text in texts:
        write(handler, [{"index": 0, "delta": {"content": text}}])
    if end:
        write(handler, [{"index": 0, "delta": {}, "finish_reason": "stop"}])
        write(handler, [], usage=True)
        handler.wfile.write(b"data: [DONE]\n\n")


def write(handler: BaseHTTPRequestHandler, choices: list[Any], usage: bool = False) -> None:
    chunk: dict[str, Any] = {
        "id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m",
        "choices": choices,
    }  # fmt: skip
    if usage:
        chunk["usage"] = {"prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100}
    handler.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
    handler.wfile.flush()


def status(code: int, message: Any = "no", *, key: str = "error", **headers: str) -> Behavior:
    def behave(handler: BaseHTTPRequestHandler, _: Any) -> None:
        said = {"message": message} if key == "error" else message
        body = json.dumps({key: said}).encode()
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return behave


def says(*texts: str, end: bool = True) -> Behavior:
    return lambda handler, _: events(handler, *texts, end=end)


GOOD = says('{"caption": "a mug', ' on grass"}')


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.behaviors, server.requests, server.keys = [GOOD], [], []
    with loopback.running(server):
        yield server


def model_at(server: Server, key: str | None = "secret-key", **fields: Any) -> EndpointModel:
    url = f"http://127.0.0.1:{server.server_port}/v1"
    endpoint = {"url": url, "model": "vlm", "timeoutSeconds": 1, **fields}
    return EndpointModel(CaptioningEndpoint.model_validate(endpoint), key)


def request(image: Image.Image | None = None, seed: int = 7) -> Request:
    return Request("0.jpg", "Describe.", "What?", Sampling(0.2, top_k=5), seed, image)


def test_an_answer_is_read_from_the_stream(server: Server) -> None:
    [answer] = ask(model_at(server), [request()], Caption)
    assert answer.caption == "a mug on grass"
    [sent] = server.requests
    assert (sent["model"], sent["seed"], sent["top_k"], sent["stream"]) == ("vlm", 7, 5, True)
    schema = sent["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["caption"]["maxLength"] == 300
    assert server.keys == ["Bearer secret-key"]


def test_an_image_is_sent_reduced_and_without_metadata(server: Server) -> None:
    photo = Image.new("RGB", (3000, 1500), "red")
    photo.getexif()[0x010F] = "camera"
    ask(model_at(server), [request(photo)], Caption)
    url = server.requests[0]["messages"][1]["content"][0]["image_url"]["url"]
    sent = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    assert sent.size == (1024, 512)
    assert not sent.getexif()


@pytest.mark.parametrize(
    "trouble",
    [
        status(429, Retry_After="0"),
        status(503, Retry_After="0"),
        says('{"caption": "a', end=False),
        lambda handler, _: handler.connection.close(),
    ],
)
def test_trouble_that_passes_is_waited_for(server: Server, trouble: Behavior) -> None:
    server.behaviors = [trouble, GOOD]
    [answer] = ask(model_at(server), [request()], Caption)
    assert answer.caption == "a mug on grass"
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("behavior", "kind", "message"),
    [
        (status(401, "key secret-key"), BadConfigError, r"apiKeySecretRef: .* refuses the key"),
        (status(404, "no such model"), BadConfigError, "knows no model vlm.*no such model"),
        (status(400, "no images"), BadConfigError, r"HTTP 400: no images"),
        (status(422, "no top_k", key="detail"), BadConfigError, r"HTTP 422: no top_k"),  # FastAPI
        (status(422, [{"loc": ["seed"]}], key="detail"), BadConfigError, r"HTTP 422: .*seed"),
        (status(503, "asleep", key="message", Retry_After="0"), TrainerError, r"HTTP 503: asleep"),
        (status(429, Retry_After="0"), TrainerError, "not able to answer now"),
        (says("", end=False), TrainerError, "no whole answer came"),
    ],
)
def test_trouble_that_stays_is_an_error(
    server: Server, behavior: Behavior, kind: type[Exception], message: str
) -> None:
    server.behaviors = [behavior]
    with pytest.raises(kind, match=message) as caught:
        ask(model_at(server), [request()], Caption)
    assert "secret-key" not in str(caught.value)


def test_a_server_that_is_not_there_is_named(server: Server) -> None:
    gone = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    url = f"http://127.0.0.1:{gone.server_port}/v1"
    gone.server_close()
    with pytest.raises(TrainerError, match=r"endpoint\.url: .* cannot be reached"):
        ask(model_at(server, url=url), [request()], Caption)


def test_images_do_not_follow_a_redirect(server: Server) -> None:
    elsewhere = f"http://127.0.0.1:{server.server_port}/elsewhere"
    server.behaviors = [status(307, Location=elsewhere), GOOD]
    with pytest.raises(BadConfigError, match=r"endpoint\.url: .* redirects .*HTTP 307.*; correct"):
        ask(model_at(server), [request()], Caption)
    assert len(server.requests) == 1


def test_a_key_that_the_model_made_up_forges_no_line(server: Server) -> None:
    server.behaviors = [says(json.dumps({"caption": "x", "\x1b[2J\nINFO ok": 1}))]
    with pytest.raises(BadModelError) as raised:
        ask(model_at(server), [request()], Caption)
    assert "\x1b" not in str(raised.value)
    assert "\nINFO" not in str(raised.value)


def test_an_answer_without_end_is_cut(server: Server) -> None:
    def forever(handler: BaseHTTPRequestHandler, _: Any) -> None:
        with contextlib.suppress(OSError):  # the client leaves
            events(handler, *["x" * 100] * 1000)

    server.behaviors = [forever]
    with pytest.raises(BadModelError, match=r"vlm gave 1 answer.* not valid, twice"):
        ask(model_at(server), [request()], Caption)


def comments(handler: BaseHTTPRequestHandler, _: Any) -> None:
    """What keeps a connection alive, and nothing else."""
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.end_headers()
    with contextlib.suppress(OSError):  # the client leaves
        while True:
            handler.wfile.write(b": processing\n\n")
            time.sleep(0.02)


def silence(handler: BaseHTTPRequestHandler, _: Any) -> None:
    """An answer that begins and then hangs."""
    events(handler, '{"caption"', end=False)
    time.sleep(1.2)


@pytest.mark.parametrize("trouble", [comments, silence])
def test_a_stream_without_an_answer_is_left_and_asked_for_again(
    server: Server, trouble: Behavior, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_module, "LONGEST_ANSWER", 0.2)
    server.behaviors = [trouble, GOOD]
    [answer] = ask(model_at(server), [request()], Caption)
    assert answer.caption == "a mug on grass"


def test_an_invalid_answer_is_asked_for_once_more_with_another_seed(server: Server) -> None:
    server.behaviors = [says("Sure! Here is a caption."), GOOD]
    [answer] = ask(model_at(server), [request()], Caption)
    assert answer.caption == "a mug on grass"
    assert [sent["seed"] for sent in server.requests] == [7, 8]


def test_the_budget_ends_the_job(server: Server) -> None:
    model = model_at(server, tokenBudget=150)
    requests = [request(seed=seed) for seed in range(3)]
    with pytest.raises(BadConfigError, match=r"tokenBudget: 200 tokens are used up .* raise it"):
        ask(model, requests, Caption)
    assert len(server.requests) == 2


def test_what_breaks_off_counts_for_the_budget(server: Server) -> None:
    server.behaviors = [says("x" * 400, end=False)]
    with pytest.raises(BadConfigError, match=r"tokenBudget: \d+ tokens are used up"):
        ask(model_at(server, tokenBudget=150), [request()], Caption)
    assert len(server.requests) == 2


def test_what_the_client_asks_again_keeps_to_the_rate_and_shows_progress(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats: list[None] = []
    monkeypatch.setattr(heartbeat, "send", lambda: beats.append(None))
    server.behaviors = [status(503, Retry_After="0"), status(503, Retry_After="0"), GOOD]
    model = model_at(server, requestsPerMinute=20)
    waits: list[float] = []
    model._sleep = waits.append  # type: ignore[method-assign]
    ask(model, [request()], Caption)
    assert len(waits) == 2
    assert len(beats) >= 3


def test_requests_keep_to_their_rate(server: Server) -> None:
    model = model_at(server, requestsPerMinute=60)
    waits: list[float] = []
    model._sleep = waits.append  # type: ignore[method-assign]
    ask(model, [request(seed=seed) for seed in range(3)], Caption)
    # No time passes in them: the third waits for two seconds, less what the answers took.
    assert 1 < waits[0] + waits[1] <= 3


def test_a_long_wait_for_the_next_request_shows_that_the_rank_lives(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_at(server, requestsPerMinute=1)
    waits: list[float] = []
    model._sleep = waits.append  # type: ignore[method-assign]
    beats: list[None] = []
    ask(model, [request()], Caption)
    monkeypatch.setattr(heartbeat, "send", lambda: beats.append(None))
    ask(model, [request(seed=1)], Caption)
    assert max(waits) <= 10
    assert sum(waits) == pytest.approx(60, abs=5)
    assert len(beats) >= len(waits)
