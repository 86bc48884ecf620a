"""Each way in which a request can fail has an error of its own; credentials rotate."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import yaml

from dreambooth_operator.controller.kube import errors, session
from dreambooth_operator.controller.kube.client import Api
from dreambooth_operator.controller.kube.clock import ServerClock
from dreambooth_operator.controller.kube.kinds import DREAMBOOTH_JOB, JOB, POD
from dreambooth_operator.controller.kube.session import Session
from dreambooth_operator.errors import UserError

Serve = Callable[[type[BaseHTTPRequestHandler]], str]


class Server(BaseHTTPRequestHandler):
    """Answers as the test says, and remembers what it was asked."""

    status = 200
    headers_out: dict[str, str] = {}
    answer: Any = {}
    tokens: set[str] | None = None
    asked: list[tuple[str, str, str | None]]
    date: str | None = None

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        token = self.headers.get("Authorization")
        self.asked.append((self.command, self.path, token))
        allowed = self.tokens is None or token in self.tokens
        body = self.answer if isinstance(self.answer, bytes) else json.dumps(self.answer).encode()
        self.send_response(self.status if allowed else 401)
        for name, value in self.headers_out.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _handle

    def date_time_string(self, timestamp: float | None = None) -> str:
        return self.date or super().date_time_string(timestamp)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Server]:
    """A server that KUBECONFIG names; a class of its own for each test."""
    handler = type("OneServer", (Server,), {"asked": []})
    _write_kubeconfig(tmp_path / "kubeconfig", serve(handler), "first")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    return handler


def _write_kubeconfig(path: Path, url: str, token: str) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "a", "cluster": {"server": url}}],
        "users": [{"name": "a", "user": {"token": token}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "current-context": "a",
    }
    path.write_text(yaml.safe_dump(config))


def _ask(work: Callable[[Api], Coroutine[Any, Any, Any]], clock: ServerClock | None = None) -> Any:
    async def connected() -> Any:
        made = Session(clock or ServerClock(), lambda *told: TOLD.append(told))
        await made.load()
        api = Api(made)
        try:
            return await work(api)
        finally:
            await api.close()

    return asyncio.run(connected())


TOLD: list[tuple[str, str, int]] = []


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, errors.InvalidError),
        (401, errors.UnavailableError),
        (403, errors.ForbiddenError),
        (404, errors.NotFoundError),
        (409, errors.ConflictError),
        (410, errors.ConflictError),
        (422, errors.InvalidError),
        (429, errors.TooManyRequestsError),
        (500, errors.UnavailableError),
        (503, errors.UnavailableError),
    ],
)
def test_answer_is_an_error_with_the_servers_words(
    server: type[Server], status: int, error: type[errors.ApiError]
) -> None:
    server.status = status
    server.answer = {"kind": "Status", "message": "said the server"}
    with pytest.raises(error, match=r"GET .*/pods/a: said the server") as raised:
        _ask(lambda api: api.get(POD, "team", "a"))
    assert type(raised.value) is error


def test_forbidden_says_what_to_do(server: type[Server]) -> None:
    server.status = 403
    server.answer = {"message": 'User "x" cannot create resource "jobs"'}
    with pytest.raises(
        errors.ForbiddenError, match=r"cannot create.*; grant it in the operator's Role"
    ):
        _ask(lambda api: api.get(JOB, "team", "a"))


def test_namespace_that_goes_is_no_missing_role(server: type[Server]) -> None:
    server.status = 403
    server.answer = {
        "message": "unable to create new content in namespace team because it is being terminated",
        "details": {"causes": [{"reason": "NamespaceTerminating"}]},
    }
    with pytest.raises(errors.UnavailableError, match=r"being terminated$"):
        _ask(lambda api: api.get(JOB, "team", "a"))


@pytest.mark.parametrize(("header", "seconds"), [("7", 7), ("soon", 1), (None, 1)])
def test_wait_that_the_server_asks_for(
    server: type[Server], header: str | None, seconds: float
) -> None:
    server.status = 429
    server.headers_out = {"Retry-After": header} if header else {}
    with pytest.raises(errors.TooManyRequestsError) as raised:
        _ask(lambda api: api.get(POD, "team", "a"))
    assert raised.value.retry_after == seconds


@pytest.mark.parametrize("answer", [b"<html>bad gateway</html>", b""])
def test_answer_that_is_not_json(server: type[Server], answer: bytes) -> None:
    server.answer = answer
    with pytest.raises(errors.UnavailableError):
        _ask(lambda api: api.get(POD, "team", "a"))


def test_server_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        _write_kubeconfig(tmp_path / "kubeconfig", url, "first")
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        with pytest.raises(errors.UnavailableError):
            _ask(lambda api: api.get(POD, "team", "a"))


def test_no_kubeconfig_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(UserError, match="set KUBECONFIG to a readable file, or run in a pod"):
        _ask(lambda api: api.get(POD, "team", "a"))


def test_token_that_was_replaced_is_read_again(
    server: type[Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "RELOAD_SECONDS", 0.0)
    path = tmp_path / "kubeconfig"

    async def work(api: Api) -> None:
        await api.get(POD, "team", "a")
        server.tokens = {"Bearer second"}
        path.write_text(path.read_text().replace("first", "second"))
        await api.get(POD, "team", "b")

    _ask(work)
    assert [token for _, _, token in server.asked] == [
        "Bearer first",
        "Bearer first",
        "Bearer second",
    ]


def test_token_that_stays_refused_is_an_error(
    server: type[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "RELOAD_SECONDS", 0.0)
    server.tokens = set()
    with pytest.raises(errors.UnavailableError):
        _ask(lambda api: api.get(POD, "team", "a"))
    assert len(server.asked) == 2


def test_list_is_read_page_by_page(server: type[Server]) -> None:
    server.answer = {
        "metadata": {"resourceVersion": "9", "continue": "more"},
        "items": [{"metadata": {"name": "a"}}],
    }

    async def work(api: Api) -> list[tuple[int, int]]:
        pages = []
        async for page in api.pages(POD, None):
            pages.append((page.version, len(page.items)))
            server.answer["metadata"].pop("continue", None)
        return pages

    assert _ask(work) == [(9, 1), (9, 1)]
    assert [path for _, path, _ in server.asked] == [
        "/api/v1/pods?limit=100&labelSelector=dreambooth.dev/job",
        "/api/v1/pods?limit=100&labelSelector=dreambooth.dev/job&continue=more",
    ]


def test_servers_date_is_heard(server: type[Server]) -> None:
    server.date = "Sun, 01 Mar 2026 12:00:00 GMT"
    clock = ServerClock()
    _ask(lambda api: api.get(POD, "team", "a"), clock)
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert abs(clock.now() - noon) < timedelta(seconds=5)


def test_answers_are_told_by_verb_resource_and_code(server: type[Server]) -> None:
    TOLD.clear()
    server.answer = {"metadata": {}, "items": []}

    async def work(api: Api) -> None:
        await api.get(POD, "team", "a")
        await api.replace_status(DREAMBOOTH_JOB, "team", "mug", 5, {})
        await api.version()
        async for _ in api.pages(JOB, "team"):
            pass

    _ask(work)
    assert TOLD == [
        ("get", "pods", 200),
        ("patch", "dreamboothjobs", 200),
        ("get", "discovery", 200),
        ("get", "jobs", 200),
    ]
