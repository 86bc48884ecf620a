"""Each way in which a request can fail raises an error of its own; credentials may rotate."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import yaml

from dreambooth_operator.controller.kube import errors
from dreambooth_operator.controller.kube import session as session_module
from dreambooth_operator.controller.kube.client import Api
from dreambooth_operator.controller.kube.clock import ServerClock
from dreambooth_operator.controller.kube.kinds import DREAMBOOTH_JOB, JOB, POD
from dreambooth_operator.controller.kube.session import OnResponse, Session
from dreambooth_operator.errors import UserError

Serve = Callable[[type[BaseHTTPRequestHandler]], str]


class Server(BaseHTTPRequestHandler):
    """An API server with one fixed response, which records its requests."""

    status = 200
    headers_out: dict[str, str] = {}
    body: Any = {}
    tokens: set[str] | None = None
    requests: list[tuple[str, str, str | None]]
    """Method, path and Authorization header of each."""
    date: str | None = None

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        token = self.headers.get("Authorization")
        self.requests.append((self.command, self.path, token))
        allowed = self.tokens is None or token in self.tokens
        body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        self.send_response(self.status if allowed else 401)
        for name, value in self.headers_out.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):  # every method
            return self._handle
        raise AttributeError(name)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return self.date or super().date_time_string(timestamp)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Server]:
    """The server that KUBECONFIG names; a new class for each test."""
    handler = type("TestServer", (Server,), {"requests": []})
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


def _with_api(
    work: Callable[[Api], Coroutine[Any, Any, Any]],
    clock: ServerClock | None = None,
    on_response: OnResponse = lambda *_: None,
) -> Any:
    """Run `work` with a client of the server that KUBECONFIG names."""

    async def connected() -> Any:
        session = Session(clock or ServerClock(), on_response)
        await session.load()
        api = Api(session)
        try:
            return await work(api)
        finally:
            await api.close()

    return asyncio.run(connected())


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
def test_error_for_each_http_status_has_the_servers_message(
    server: type[Server], status: int, error: type[errors.ApiError]
) -> None:
    server.status = status
    server.body = {"kind": "Status", "message": "the server's message"}
    with pytest.raises(error, match=r"GET .*/pods/a: the server's message") as raised:
        _with_api(lambda api: api.get(POD, "team", "a"))
    assert type(raised.value) is error


def test_forbidden_error_says_what_to_do(server: type[Server]) -> None:
    server.status = 403
    server.body = {"message": 'User "x" cannot create resource "jobs"'}
    with pytest.raises(
        errors.ForbiddenError, match=r"cannot create.*; grant it in the operator's Role"
    ):
        _with_api(lambda api: api.get(JOB, "team", "a"))


@pytest.mark.parametrize(
    "refusal",
    [
        'pods "a" is forbidden: exceeded quota: team, requested: pods=1, used: pods=1, limited: 1',
        'admission webhook "check.example.com" denied the request: no',
        "pods \"a\" is forbidden: ValidatingAdmissionPolicy 'owner' denied request: no",
        'pods "a" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation',
    ],
)
def test_no_permission_is_asked_for_where_none_would_help(
    server: type[Server], refusal: str
) -> None:
    server.status = 403
    server.body = {"message": refusal}
    with pytest.raises(errors.ForbiddenError, match=re.escape(refusal) + "$"):
        _with_api(lambda api: api.get(JOB, "team", "a"))


def test_a_webhook_that_does_not_answer_is_told_from_a_server_that_does_not(
    server: type[Server],
) -> None:
    server.status = 500
    server.body = {"message": 'Internal error occurred: failed calling webhook "x": timed out'}
    with pytest.raises(errors.WebhookError, match='webhook "x"'):
        _with_api(lambda api: api.get(JOB, "team", "a"))


def test_terminating_namespace_is_not_reported_as_a_missing_role(server: type[Server]) -> None:
    server.status = 403
    server.body = {
        "message": "unable to create new content in namespace team because it is being terminated",
        "details": {"causes": [{"reason": "NamespaceTerminating"}]},
    }
    with pytest.raises(errors.UnavailableError, match=r"being terminated$"):
        _with_api(lambda api: api.get(JOB, "team", "a"))


@pytest.mark.parametrize(("header", "seconds"), [("7", 7), ("soon", 1), (None, 1)])
def test_retry_after_header_is_used(
    server: type[Server], header: str | None, seconds: float
) -> None:
    server.status = 429
    server.headers_out = {"Retry-After": header} if header else {}
    with pytest.raises(errors.TooManyRequestsError) as raised:
        _with_api(lambda api: api.get(POD, "team", "a"))
    assert raised.value.retry_after == seconds


@pytest.mark.parametrize("body", [b"<html>bad gateway</html>", b""])
def test_response_that_is_not_json(server: type[Server], body: bytes) -> None:
    server.body = body
    with pytest.raises(errors.UnavailableError):
        _with_api(lambda api: api.get(POD, "team", "a"))


def test_unreachable_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        _write_kubeconfig(tmp_path / "kubeconfig", url, "first")
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        with pytest.raises(errors.UnavailableError):
            _with_api(lambda api: api.get(POD, "team", "a"))


def test_error_for_a_missing_kubeconfig_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(UserError, match="set KUBECONFIG to a readable file, or run in a pod"):
        _with_api(lambda api: api.get(POD, "team", "a"))


def test_rotated_token_is_read_again(
    server: type[Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "RELOAD_SECONDS", 0.0)
    path = tmp_path / "kubeconfig"

    async def work(api: Api) -> None:
        await api.get(POD, "team", "a")
        server.tokens = {"Bearer second"}
        path.write_text(path.read_text().replace("first", "second"))
        await api.get(POD, "team", "b")

    _with_api(work)
    assert [token for _, _, token in server.requests] == [
        "Bearer first",
        "Bearer first",
        "Bearer second",
    ]


def test_token_that_stays_rejected_is_an_error(
    server: type[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "RELOAD_SECONDS", 0.0)
    server.tokens = set()
    with pytest.raises(errors.UnavailableError):
        _with_api(lambda api: api.get(POD, "team", "a"))
    assert len(server.requests) == 2


def test_list_is_read_page_by_page(server: type[Server]) -> None:
    server.body = {
        "metadata": {"resourceVersion": "9", "continue": "more"},
        "items": [{"metadata": {"name": "a"}}],
    }

    async def work(api: Api) -> list[tuple[int, int]]:
        pages = []
        async for page in api.pages(POD, None):
            pages.append((page.version, len(page.items)))
            server.body["metadata"].pop("continue", None)
        return pages

    assert _with_api(work) == [(9, 1), (9, 1)]
    assert [path for _, path, _ in server.requests] == [
        "/api/v1/pods?limit=100&labelSelector=dreambooth.dev/job",
        "/api/v1/pods?limit=100&labelSelector=dreambooth.dev/job&continue=more",
    ]


def test_date_header_sets_the_clock(server: type[Server]) -> None:
    server.date = "Sun, 01 Mar 2026 12:00:00 GMT"
    clock = ServerClock()
    _with_api(lambda api: api.get(POD, "team", "a"), clock)
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert abs(clock.now() - noon) < timedelta(seconds=5)


def test_responses_are_reported_by_verb_resource_and_code(server: type[Server]) -> None:
    responses: list[tuple[str, str, int]] = []
    server.body = {"metadata": {}, "items": []}

    async def work(api: Api) -> None:
        await api.get(POD, "team", "a")
        await api.replace_status(DREAMBOOTH_JOB, "team", "mug", 5, {})
        await api.version()
        async for _ in api.pages(JOB, "team"):
            pass

    _with_api(work, on_response=lambda *response: responses.append(response))
    assert responses == [
        ("get", "pods", 200),
        ("patch", "dreamboothjobs", 200),
        ("get", "discovery", 200),
        ("get", "jobs", 200),
    ]
