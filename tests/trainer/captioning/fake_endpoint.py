"""A server with OpenAI's API that answers at once, by the schema that it is given."""

import hashlib
import json
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.loopback import Handler, running

PLACES = ("on a lawn", "in the snow", "by a lake", "on a table", "in a street", "on a sofa")


class FakeEndpoint(ThreadingHTTPServer):
    """What it is asked decides the answer.

    requests: bodies of the questions so far.
    keys: headers that they came with.
    status: answered to everything if it is not 200.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.status = 200
        self.check = {"subject": True, "subjects": 1, "text": False, "watermark": False,
                      "blurred": False}  # fmt: skip

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        kind = body["response_format"]["json_schema"]["name"]
        asked = json.dumps(body["messages"]) + str(body.get("seed"))
        number = hashlib.sha256(asked.encode()).digest()[0]
        place = PLACES[number % len(PLACES)]
        if kind == "Caption":
            return {"caption": f"a photo of a mug {place}, take {number}"}
        if kind == "Prompts":
            return {"prompts": [f"a mug {each}, light {number}" for each in PLACES]}
        return self.check


class _Handler(Handler, BaseHTTPRequestHandler):
    server: FakeEndpoint

    def do_GET(self) -> None:
        self.send(self.server.status, b'{"object": "list", "data": []}')

    def do_POST(self) -> None:
        body = json.loads(self.body())
        self.server.requests.append(body)
        self.server.keys.append(self.headers["Authorization"])
        text = json.dumps(self.server.answer(body))
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "fake"}
        choices = [{"index": 0, "delta": {"content": text}, "finish_reason": "stop"}]
        event = json.dumps({**chunk, "choices": choices})
        stream = f"data: {event}\n\ndata: [DONE]\n\n".encode()
        self.send(self.server.status, stream, "text/event-stream")


def fake_endpoint() -> AbstractContextManager[FakeEndpoint]:
    """The server, on a port of its own."""
    return running(FakeEndpoint())
