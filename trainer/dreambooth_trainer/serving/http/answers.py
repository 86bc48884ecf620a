"""Answers to requests for images: all at once, or as server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from sse_starlette.sse import EventSourceResponse

from dreambooth_trainer.serving.engine.queue import Failed, Finished, Partial
from dreambooth_trainer.serving.http import responses
from dreambooth_trainer.serving.http.pictures import Pictures
from dreambooth_trainer.serving.http.plan import Plan, made_by
from dreambooth_trainer.serving.http.requests import ImagesRequest
from dreambooth_trainer.serving.http.stream import Stream

PING_SECONDS = 15
SEND_SECONDS = 60
"""How long a client of a stream may read nothing."""


def answer_stream(stream: Stream, plan: Plan, wanted: ImagesRequest, stop_seconds: int) -> Response:
    """Server-sent events of a request; they may go on for `stop_seconds` when the server stops."""
    return EventSourceResponse(
        _events(stream, plan, wanted),
        ping=PING_SECONDS,
        send_timeout=SEND_SECONDS,
        shutdown_grace_period=stop_seconds,
    )


async def _events(
    stream: Stream, plan: Plan, wanted: ImagesRequest
) -> AsyncIterator[dict[str, str]]:
    """Server-sent events; closed when the client leaves."""
    async for event in stream.events():
        if isinstance(event, Failed):
            yield {"event": "error", "data": json.dumps(
                responses.error_body(event.message, event.status))}  # fmt: skip
            return
        seed = plan.seeds[event.index]
        data = await run_in_threadpool(
            responses.encode_image, event.image, wanted, made_by(plan, wanted, seed)
        )
        fields: dict[str, Any] = {"b64_json": responses.base64_text(data), "seed": seed}
        fields["index"] = event.index
        if isinstance(event, Partial):
            kind, fields["partial_image_index"] = "partial_image", event.number
        else:
            kind, fields["warnings"] = "completed", plan.warnings
        body = responses.stream_event(kind, wanted, plan.size, **fields)
        yield {"event": body["type"], "data": json.dumps(body)}


async def answer(
    stream: Stream, plan: Plan, wanted: ImagesRequest, pictures: Pictures, request: Request
) -> Response:
    """All images of a request.

    Raises:
        HTTPException: They could not be made.
    """
    leaving = asyncio.create_task(_close_when_left(request, stream))
    items: list[dict[str, Any]] = [{} for _ in plan.seeds]
    try:
        async for event in stream.events():
            if isinstance(event, Failed):
                raise HTTPException(event.status, event.message)
            if not isinstance(event, Finished):
                continue
            seed = plan.seeds[event.index]
            made = made_by(plan, wanted, seed)
            data = await run_in_threadpool(responses.encode_image, event.image, wanted, made)
            item: dict[str, Any] = {"seed": seed}
            if wanted.response_format == "url":
                name = pictures.keep(data, f"image/{wanted.output_format}")
                item["url"] = str(request.url_for("get_picture", name=name))
            else:
                item["b64_json"] = responses.base64_text(data)
            items[event.index] = item
    finally:
        stream.close()
        leaving.cancel()
        with suppress(asyncio.CancelledError):
            await leaving
    return JSONResponse(responses.images_answer(wanted, plan.size, items, plan.warnings))


async def _close_when_left(request: Request, stream: Stream) -> None:
    """Give the request up as soon as its client is gone."""
    # Not `is_disconnected`, which finds nothing out behind a middleware of `app.middleware`.
    while (await request.receive())["type"] != "http.disconnect":
        pass
    stream.close()
