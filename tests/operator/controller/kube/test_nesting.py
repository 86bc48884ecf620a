"""A response is read however deep one of its objects is nested."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st
from kopf._cogs.clients.api import iter_jsonlines

from dreambooth_operator.controller.kube.nesting import MAX_DEPTH, BoundedResponse, limit_depth

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='{}[]"\\ä\n, '),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('"{\\'), inner, max_size=3),
    max_leaves=20,
)


def depth(value: Any) -> int:
    children = value.values() if isinstance(value, dict) else value
    return 1 + max(map(depth, children), default=0) if isinstance(value, (dict, list)) else 0


def cut(value: Any, limit: int) -> Any:
    if not isinstance(value, (dict, list)):
        return value
    if limit == 0:
        return None
    if isinstance(value, dict):
        return {key: cut(each, limit - 1) for key, each in value.items()}
    return [cut(each, limit - 1) for each in value]


@given(JSON, st.integers(1, 5), st.booleans())
def test_everything_above_the_limit_is_kept(value: Any, limit: int, ascii_only: bool) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert json.loads(limit_depth(data, limit)) == cut(value, limit)


def test_a_list_with_one_object_that_is_too_deep_can_be_read() -> None:
    deep = b'{"a":' * 9_000 + b"1" + b"}" * 9_000
    data = b'{"items":[{"name":"before"},%b,{"name":"after"}]}' % deep
    page = json.loads(limit_depth(data))
    assert depth(page) == MAX_DEPTH
    assert [page["items"][0], page["items"][2]] == [{"name": "before"}, {"name": "after"}]


def test_a_watch_and_a_list_over_http_go_on_after_what_is_too_deep() -> None:
    deep = b'{"a":' * 1_500 + b"1" + b"}" * 1_500
    lines = [b'{"name":"before"}', deep, b'{"name":"after"}']

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/list":
            return web.Response(body=b"[%b]" % b",".join(lines), content_type="application/json")
        response = web.StreamResponse()
        await response.prepare(request)
        whole = b"\n".join(lines)
        for start in range(0, len(whole), 1_000):  # an event may come in several pieces
            await response.write(whole[start : start + 1_000])
            await asyncio.sleep(0)
        return response

    async def work() -> None:
        app = web.Application()
        app.router.add_get("/{path}", answer)
        async with (
            TestServer(app) as server,
            aiohttp.ClientSession(response_class=BoundedResponse) as session,
        ):
            async with session.get(server.make_url("/list")) as response:
                listed = await response.json()
            async with session.get(server.make_url("/watch")) as response:
                events = [json.loads(line) async for line in iter_jsonlines(response.content)]
        for found in (listed, events):
            assert [found[0], found[2]] == [{"name": "before"}, {"name": "after"}]
            assert depth(found[1]) in (MAX_DEPTH, MAX_DEPTH - 1)

    asyncio.run(work())
