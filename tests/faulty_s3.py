"""A faulty S3 server: a proxy in front of a real one, which injects faults by rules.

Forwarded requests keep their Host header, which is signed. Rules may be changed at any moment, and
the proxy serves every process on this machine.
"""

from __future__ import annotations

import http.client
import random
import re
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Refusal = Literal["500", "503", "429", "expired", "denied", "full", "quota", "exists"]
Break = Literal[
    "reset",  # before anything is forwarded
    "lost",  # the request is forwarded, its answer never arrives
    "cut",  # in the middle of the answer's body, with a reset
    "truncate",  # in the middle of the answer's body, with an orderly end
    "shorten",  # half of the body, announced as if it were all
    "corrupt",  # one bit of the answer's body
    "corrupt-request",  # one bit of the request's body
    "shuffle",  # a listing in another order
    "slow",  # forwarded after some seconds
    "hang",  # never answered
]
Fault = Refusal | Break
Rule = Callable[[str, str], Fault | None]
"""rule(method, path and query): the fault of this request. Called once for each request."""

REFUSALS: dict[str, tuple[int, str]] = {
    "500": (500, "InternalError"),
    "503": (503, "SlowDown"),
    "429": (429, "TooManyRequests"),
    "expired": (403, "ExpiredToken"),
    "denied": (403, "AccessDenied"),
    "full": (507, "InsufficientStorage"),
    "quota": (403, "QuotaExceeded"),
    "exists": (412, "PreconditionFailed"),
}
_CONTENTS = re.compile(rb"<Contents>.*?</Contents>", re.DOTALL)


def always(fault: Fault, method: str = ".*", path: str = "") -> Rule:
    """Each request whose method and whose path and query (anywhere in it) match."""
    return lambda m, target: fault if _matches(method, path, m, target) else None


def times(*faults: Fault, method: str = ".*", path: str = "") -> Rule:
    """The next matching requests, one fault each."""
    left = deque(faults)

    def rule(m: str, target: str) -> Fault | None:
        return left.popleft() if left and _matches(method, path, m, target) else None

    return rule


def sometimes(
    faults: Sequence[Fault], odds: float, seed: int, method: str = ".*", path: str = ""
) -> Rule:
    """Matching requests with these odds, each with one of the faults."""
    draw = random.Random(seed)

    def rule(m: str, target: str) -> Fault | None:
        chosen = _matches(method, path, m, target) and draw.random() < odds
        return draw.choice(faults) if chosen else None

    return rule


def once(happened: Rule, then: Rule) -> Rule:
    """`then`, from the request after the first one that `happened` matches."""
    begun = False

    def rule(method: str, target: str) -> Fault | None:
        nonlocal begun
        if begun:
            return then(method, target)
        begun = happened(method, target) is not None
        return None

    return rule


def _matches(method: str, path: str, m: str, target: str) -> bool:
    return bool(re.fullmatch(method, m) and re.search(path, target))


@dataclass(frozen=True)
class Request:
    """A request, and the fault that it got."""

    method: str
    target: str
    fault: Fault | None


class FaultyS3(ThreadingHTTPServer):
    """The proxy; a context manager. `url` is the endpoint to use in place of `upstream`."""

    request_queue_size = 128

    def __init__(self, upstream: str, *, seconds: float = 1.0) -> None:
        """`seconds`: how late the slow answers are."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream).netloc
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.seconds = seconds
        self.ended = threading.Event()
        self.requests: list[Request] = []
        self._rules: Sequence[Rule] = ()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever)

    def set_rules(self, *rules: Rule) -> None:
        """From now on, a request gets the fault of the first of these rules that has one."""
        with self._lock:
            self._rules = rules

    def faults(self) -> list[Fault]:
        """The faults injected so far."""
        return [request.fault for request in self.requests if request.fault]

    def fault_of(self, method: str, target: str) -> Fault | None:
        """The fault of a request, which is recorded."""
        with self._lock:
            faults = (fault for rule in self._rules if (fault := rule(method, target)))
            fault = next(faults, None)
            self.requests.append(Request(method, target, fault))
        return fault

    def __enter__(self) -> FaultyS3:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that went away."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FaultyS3

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.fault_of(self.command, self.path)
        if fault in REFUSALS:
            self._refuse(*REFUSALS[fault])
        elif fault == "reset":
            self._reset()
        elif fault == "hang":
            self.server.ended.wait()
            self._reset()
        else:
            if fault == "slow":
                self.server.ended.wait(self.server.seconds)
            self._forward(_flipped(body) if fault == "corrupt-request" else body, fault)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815 - names of http.server

    def _forward(self, body: bytes, fault: Fault | None) -> None:
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=30)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("connection", "expect"):
                upstream.putheader(name, value)
        upstream.endheaders(body)
        answer = upstream.getresponse()
        content = answer.read()
        upstream.close()
        if fault == "lost":
            self._reset()
        else:
            self._answer(answer, _damaged(content, fault), fault)

    def _answer(
        self, answer: http.client.HTTPResponse, content: bytes, fault: Fault | None
    ) -> None:
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if fault not in ("cut", "truncate"):
            self.wfile.write(content)
            return
        self.wfile.write(content[: len(content) // 2])
        self.close_connection = True
        if fault == "cut":
            self._reset()

    def _refuse(self, status: int, code: str) -> None:
        page = f"<Error><Code>{code}</Code><Message>No.</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page)

    def _reset(self) -> None:
        """Close with RST instead of FIN."""
        linger = struct.pack("ii", 1, 0)
        with suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def _damaged(content: bytes, fault: Fault | None) -> bytes:
    if fault == "shorten":
        return content[: len(content) // 2]
    if fault == "corrupt":
        return _flipped(content)
    if fault == "shuffle":
        entries = _CONTENTS.findall(content)[::-1]
        return _CONTENTS.sub(lambda _: entries.pop(0), content)
    return content


def _flipped(content: bytes) -> bytes:
    """With one bit changed, in the middle."""
    middle = len(content) // 2
    return (
        content[:middle]
        + bytes(b ^ 1 for b in content[middle : middle + 1])
        + content[middle + 1 :]
    )
