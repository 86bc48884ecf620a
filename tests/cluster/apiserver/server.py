"""The double as a server: in a thread of a test's process, or in a process of its own."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from aiohttp import web

from tests.cluster.apiserver.api import Api
from tests.cluster.apiserver.control import Control
from tests.cluster.apiserver.settings import Settings

TOKEN = "double"
WRITES = {"create", "update", "patch", "delete", "deletecollection"}
LEAVE_SECONDS = 0.2
"""How long requests in flight are waited for at the end."""
LARGEST_BODY = 3 * 1024 * 1024
"""kube-apiserver takes 3 MiB."""


class Server:
    """The double on a port of 127.0.0.1, inside a running event loop."""

    def __init__(self, api: Api) -> None:
        self.port = 0
        self._api = api
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None

    async def start(self, port: int = 0) -> None:
        """Listen; port 0 takes a free one."""
        app = web.Application(client_max_size=LARGEST_BODY)
        app.add_routes(Control(self._api, self.refuse).routes())
        app.router.add_route("*", "/{path:.*}", self._api.answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=LEAVE_SECONDS)
        await self._runner.setup()
        await self._listen(port)
        assert self._runner.addresses
        self.port = self._runner.addresses[0][1]

    async def _listen(self, port: int) -> None:
        assert self._runner is not None
        self._site = web.TCPSite(self._runner, "127.0.0.1", port, reuse_address=True)
        await self._site.start()

    async def refuse(self, seconds: float) -> None:
        """Cut every connection and refuse new ones for a while."""
        assert self._runner is not None
        assert self._site is not None
        await self._site.stop()
        self._cut()
        await asyncio.sleep(seconds)
        await self._listen(self.port)

    def _cut(self) -> None:
        assert self._runner is not None
        self._api.faults.close_watches()
        server = self._runner.server
        for connection in server.connections if server else ():
            if connection.transport is not None:
                connection.transport.abort()

    async def stop(self) -> None:
        self._cut()
        if self._runner is not None:
            await self._runner.cleanup()


class DoubleClient:
    """What a test asks of a double, in this process or another, by its URL."""

    def __init__(self, url: str) -> None:
        self.url = url

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/_double/{path}", data, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def fail(self, **fault: Any) -> None:
        """Let requests fail or wait: the fields of `faults.Fault`."""
        self._ask("POST", "faults", fault)

    def heal(self) -> None:
        """No more faults."""
        self._ask("DELETE", "faults")

    def refuse(self, seconds: float) -> None:
        """Cut all connections, and refuse new ones for so long."""
        self._ask("POST", "refuse", {"seconds": seconds})

    def close_watches(self) -> int:
        """End all watches; returns how many there were."""
        return int(self._ask("POST", "watches", {"action": "close"})["watches"])

    def silence_watches(self, seconds: float = 0, agent: str = "") -> int:
        """Keep watches open but silent: those open now, and those opened within `seconds`.

        An `agent` limits this to clients whose User-Agent starts with it.
        """
        wanted = {"action": "silence", "seconds": seconds, "agent": agent}
        return int(self._ask("POST", "watches", wanted)["watches"])

    def forget_history(self) -> None:
        """Watching from any version known so far answers 410 Gone."""
        self._ask("POST", "history", {})

    def requests(self) -> list[dict[str, Any]]:
        """Counts of requests: verb, resource, userAgent, code, count."""
        found: list[dict[str, Any]] = self._ask("GET", "requests")
        return found

    def writes(self, user_agent: str = "") -> int:
        """How many writes succeeded, of clients whose user agent starts so."""
        return sum(
            one["count"]
            for one in self.requests()
            if one["verb"] in WRITES
            and one["code"] < 300
            and one["userAgent"].startswith(user_agent)
        )

    def reset_requests(self) -> None:
        self._ask("DELETE", "requests")

    def violations(self) -> dict[str, Any]:
        """Objects that a published schema refuses, and how many were `checked`."""
        found: dict[str, Any] = self._ask("GET", "violations")
        return found


class ApiServerDouble(DoubleClient):
    """A double in a thread of this process: `with ApiServerDouble() as double: double.url`."""

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__("")
        self.api = Api(settings or Settings())
        self._server = Server(self.api)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="api-server-double")

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result(10)
        self.url = f"http://127.0.0.1:{self._server.port}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._server.stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def write_kubeconfig(self, file: Path) -> Path:
        """Write a kubeconfig that names this double, for any client; returns the file."""
        return write_kubeconfig(file, self.url)


def write_kubeconfig(file: Path, url: str) -> Path:
    """Write a kubeconfig for a server at a URL."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "double", "cluster": {"server": url}}],
        "users": [{"name": "double", "user": {"token": TOKEN}}],
        "contexts": [{"name": "double", "context": {"cluster": "double", "user": "double"}}],
        "current-context": "double",
    }
    file.write_text(yaml.safe_dump(config))
    return file
