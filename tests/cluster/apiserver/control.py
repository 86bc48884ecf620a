"""/_double/...: what tests and benches ask of the double itself, from any thread or process.

POST   /_double/faults     a Fault's fields: the next matching requests fail or wait
DELETE /_double/faults     no more faults
POST   /_double/refuse     {"seconds": 5}: connections are cut and refused for a while
POST   /_double/watches    {"action": "close"} or {"action": "silence", "seconds": 5, "agent": ""}
POST   /_double/history    forget it: every version known so far is too old to watch from
GET    /_double/requests   counts by verb, resource, user agent and status code
DELETE /_double/requests   count from zero
GET    /_double/violations objects that a published schema refuses, and how many were checked
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from tests.cluster.apiserver.api import Api
from tests.cluster.apiserver.faults import Fault

Refuse = Callable[[float], Awaitable[None]]


class Control:
    """The handlers of /_double."""

    def __init__(self, api: Api, refuse: Refuse) -> None:
        self._api = api
        self._refuse = refuse
        self._tasks: set[asyncio.Task[None]] = set()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/_double/faults", self._add_fault),
            web.delete("/_double/faults", self._clear_faults),
            web.post("/_double/refuse", self._refuse_connections),
            web.post("/_double/watches", self._touch_watches),
            web.post("/_double/history", self._forget),
            web.get("/_double/requests", self._requests),
            web.delete("/_double/requests", self._reset),
            web.get("/_double/violations", self._violations),
        ]

    async def _add_fault(self, request: web.Request) -> web.Response:
        self._api.faults.add(Fault(**await request.json()))
        return web.json_response({})

    async def _clear_faults(self, _: web.Request) -> web.Response:
        self._api.faults.clear()
        return web.json_response({})

    async def _refuse_connections(self, request: web.Request) -> web.Response:
        seconds = float((await request.json())["seconds"])
        task = asyncio.create_task(self._refuse_soon(seconds))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return web.json_response({})

    async def _refuse_soon(self, seconds: float) -> None:
        await asyncio.sleep(0.05)  # the answer to this request goes out first
        await self._refuse(seconds)

    async def _touch_watches(self, request: web.Request) -> web.Response:
        wanted: dict[str, Any] = await request.json()
        faults = self._api.faults
        if wanted["action"] == "close":
            return web.json_response({"watches": faults.close_watches()})
        count = faults.silence_watches(float(wanted.get("seconds", 0)), wanted.get("agent", ""))
        return web.json_response({"watches": count})

    async def _forget(self, _: web.Request) -> web.Response:
        self._api.store.forget_history()
        return web.json_response({"resourceVersion": self._api.store.version})

    async def _requests(self, _: web.Request) -> web.Response:
        names = ("verb", "resource", "userAgent", "code")
        counted = self._api.records.requests.items()
        found = [dict(zip(names, key, strict=True), count=count) for key, count in counted]
        return web.json_response(found)

    async def _reset(self, _: web.Request) -> web.Response:
        self._api.records.requests.clear()
        return web.json_response({})

    async def _violations(self, _: web.Request) -> web.Response:
        records = self._api.records
        checked = [
            {"resource": resource, "userAgent": agent, "count": count}
            for (resource, agent), count in records.checked.items()
        ]
        found = [
            {
                "version": one.version,
                "resource": one.resource,
                "name": one.name,
                "userAgent": one.user_agent,
                "path": one.path,
                "message": one.message,
            }
            for one in records.violations
        ]
        return web.json_response({"checked": checked, "violations": found})
