"""A minimal HTTP client for an API server: one request, one complete response."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.cluster.api_requests import Step


class Response(NamedTuple):
    """A response; the body is parsed if it is JSON."""

    code: int
    body: Any
    warnings: list[str]


@dataclass(frozen=True)
class RawClient:
    """Sends single requests to an API server."""

    url: str
    token: str = "any"
    trust: ssl.SSLContext | None = None
    user_agent: str = "tests/1"

    def send(self, step: Step) -> Response:
        """Send one request and return the response, whatever its status code."""
        try:
            with self._open(step, timeout=20) as answer:
                return _response(answer.status, answer.read(), answer.headers)
        except urllib.error.HTTPError as error:
            with error:
                return _response(error.code, error.read(), error.headers)

    @contextmanager
    def watch(self, path: str, timeout: float = 5.0) -> Iterator[Iterator[dict[str, Any]]]:
        """The events of a watch as they come; `TimeoutError` when none comes for a while."""
        with self._open(Step("GET", path), timeout) as answer:
            yield (json.loads(line) for line in answer)

    def _open(self, step: Step, timeout: float) -> Any:
        body = step.body
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = {
            "Authorization": f"Bearer {self.token}",
            "Content-Type": step.content_type,
            "Accept": step.accept,
            "User-Agent": self.user_agent,
        }
        request = urllib.request.Request(self.url + step.path, data, headers, method=step.method)
        return urllib.request.urlopen(request, timeout=timeout, context=self.trust)


def _response(code: int, body: bytes, headers: Any) -> Response:
    try:
        content = json.loads(body)
    except ValueError:
        content = body.decode()
    return Response(code, content, headers.get_all("Warning") or [])
