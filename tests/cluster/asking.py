"""Plain requests to an API server, one at a time, with the whole answer."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.cluster.scenarios import Step


class Answer(NamedTuple):
    """What a server answered: the body is parsed where it is JSON."""

    code: int
    body: Any
    warnings: list[str]


@dataclass(frozen=True)
class Server:
    """An API server, and how to ask it."""

    url: str
    token: str = "any"
    trust: ssl.SSLContext | None = None
    user_agent: str = "tests/1"

    def ask(self, step: Step) -> Answer:
        """The answer to one request, be it a refusal."""
        try:
            with self._open(step, timeout=20) as answer:
                return _answer(answer.status, answer.read(), answer.headers)
        except urllib.error.HTTPError as error:
            with error:
                return _answer(error.code, error.read(), error.headers)

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


def _answer(code: int, body: bytes, headers: Any) -> Answer:
    try:
        content = json.loads(body)
    except ValueError:
        content = body.decode()
    return Answer(code, content, headers.get_all("Warning") or [])
