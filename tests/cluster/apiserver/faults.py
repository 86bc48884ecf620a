"""Fault injection: error responses, delays, watches that close or go silent."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from tests.cluster.apiserver.errors import ApiError
from tests.cluster.apiserver.watches import Watch

REASONS = {
    403: "Forbidden",
    409: "Conflict",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
}


@dataclass
class Fault:
    """What happens to the next requests that match."""

    method: str = ".*"
    """Regular expression that the whole method matches."""
    path: str = ""
    """Regular expression that is searched for in path and query."""
    agent: str = ""
    """How the client's User-Agent begins."""
    code: int = 0
    """The error to answer with; 0: answer as usual."""
    delay: float = 0.0
    """Seconds to wait before the answer."""
    times: int = 1
    """How many requests it happens to; -1: all, until the faults are cleared."""
    message: str = "the test asked for this failure"
    """What the error says."""
    retry_after: int = 1
    """Retry-After of a 429 or 503, in seconds."""

    def matches(self, request: web.Request) -> bool:
        method = re.fullmatch(self.method, request.method)
        theirs = request.headers.get("User-Agent", "").startswith(self.agent)
        return bool(self.times and theirs and method and re.search(self.path, request.path_qs))

    def error(self) -> ApiError:
        reason = REASONS.get(self.code, "InternalError")
        wait = {"retryAfterSeconds": self.retry_after} if self.code in (429, 503) else {}
        headers = {"Retry-After": str(self.retry_after)} if wait else {}
        return ApiError(self.code, reason, self.message, wait, headers)


class Faults:
    """The faults that are waiting to happen, and the open watches."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._watches: set[Watch] = set()
        self._silent_until = 0.0
        self._silent_agent = ""

    def add(self, fault: Fault) -> None:
        self._faults.append(fault)

    def clear(self) -> None:
        """No more faults; watches that were silenced stay silent."""
        self._faults.clear()
        self._silent_until = 0.0

    async def inject(self, request: web.Request) -> None:
        """Let the first fault that matches a request happen to it."""
        for fault in self._faults:
            if fault.matches(request):
                fault.times -= 1
                await asyncio.sleep(fault.delay)
                if fault.code:
                    raise fault.error()
                return

    def opened(self, watch: Watch) -> Callable[[], None]:
        """Note an open watch; returns what to call when it is closed."""
        self._watches.add(watch)
        soon = asyncio.get_running_loop().time() < self._silent_until
        watch.silent = soon and watch.agent.startswith(self._silent_agent)
        return lambda: self._watches.discard(watch)

    def close_watches(self) -> int:
        for watch in self._watches:
            watch.close()
        return len(self._watches)

    def silence_watches(self, seconds: float, agent: str) -> int:
        """Silence watches that are open, or are opened within `seconds`.

        An `agent` limits this to clients whose User-Agent starts with it.
        """
        self._silent_until = asyncio.get_running_loop().time() + seconds
        self._silent_agent = agent
        meant = [watch for watch in self._watches if watch.agent.startswith(agent)]
        for watch in meant:
            watch.silent = True
        return len(meant)
