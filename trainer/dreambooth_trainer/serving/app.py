"""The HTTP server: OpenAI's images API, a page, health and metrics."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sse_starlette.sse import EventSourceResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from dreambooth_api.schema.base import PATTERNS
from dreambooth_storage import ObjectNotFoundError, StorageError
from dreambooth_trainer.process.errors import TrainerError
from dreambooth_trainer.serving import responses
from dreambooth_trainer.serving.access import add_access
from dreambooth_trainer.serving.catalog import Result
from dreambooth_trainer.serving.parts import Parts
from dreambooth_trainer.serving.pictures import Pictures
from dreambooth_trainer.serving.plan import Plan, made_by, make_plan
from dreambooth_trainer.serving.requests import ImagesRequest
from dreambooth_trainer.serving.stream import Stream
from dreambooth_trainer.serving.work import (
    Failed,
    Finished,
    Partial,
    QueueClosedError,
    QueueFullError,
)

PAGE = Path(__file__).parent / "page"
PAGE_FILES = {"": "index.html", "page.css": "page.css", "page.js": "page.js"}
GALLERY = {"before-after.png": "image/png", "report.html": "text/html"}
"""Files of a run that the page shows."""
POLICY = "default-src 'self'; img-src 'self' blob: data:; style-src 'self'; frame-ancestors 'none'"
PING_SECONDS = 15
SEND_SECONDS = 60
"""How long a client of a stream may read nothing."""


def make_app(parts: Parts) -> FastAPI:
    """The application; the engine runs while it does."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        parts.engine.start()
        yield
        await run_in_threadpool(parts.engine.stop, parts.settings.stop_seconds)

    # Without the pages of FastAPI, which load scripts from elsewhere.
    app = FastAPI(title="dreambooth", lifespan=lifespan, docs_url=None, redoc_url=None)
    _add_errors(app)
    add_access(app, parts.settings)
    _add_health(app, parts)
    _add_page(app, parts)
    _add_images(app, parts)
    return app


def _add_errors(app: FastAPI) -> None:
    async def answer(_: Request, error: Exception) -> Response:
        headers: dict[str, str] = {}
        param = None
        if isinstance(error, RequestValidationError):
            first = error.errors()[0]
            # What is no JSON has the number of a character in place of a field.
            field = first["loc"][1:] if first["type"] != "json_invalid" else ()
            param = ".".join(map(str, field)) or None
            status = 400
            # A pattern says less than what it is for.
            what = PATTERNS.get(first.get("ctx", {}).get("pattern"))
            reason = f"must be {what}" if what else first["msg"].removeprefix("Value error, ")
            message = f"{param or 'body'}: {reason}"
        elif isinstance(error, StarletteHTTPException):
            status, message = error.status_code, str(error.detail)
            headers = dict(error.headers or {})
        else:
            status, message = _status(error), str(error)
        return JSONResponse(responses.error_body(message, status, param), status, headers)

    for kind in (RequestValidationError, StarletteHTTPException, StorageError, TrainerError):
        app.add_exception_handler(kind, answer)


def _status(error: Exception) -> int:
    return 502 if isinstance(error, StorageError) else 400


def _add_health(app: FastAPI, parts: Parts) -> None:
    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> Response:
        return Response("ok" if parts.engine.is_alive else "the engine has died",
                        200 if parts.engine.is_alive else 500)  # fmt: skip

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> Response:
        try:
            await run_in_threadpool(parts.catalog.results)
        except StorageError as error:
            return Response(str(error), 503)
        return Response("ok")

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(parts.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _add_page(app: FastAPI, parts: Parts) -> None:
    def add_file(path: str, name: str) -> None:
        @app.get(f"/{path}", include_in_schema=False)
        async def page_file() -> Response:
            return FileResponse(PAGE / name, headers={"Content-Security-Policy": POLICY})

    for path, name in PAGE_FILES.items():
        add_file(path, name)

    @app.get("/results/{model:path}/files/{name}", include_in_schema=False)
    async def result_file(model: str, name: str) -> Response:
        result = await _find(parts, model)
        if name not in GALLERY:
            raise HTTPException(404, f"{name}: no such file")
        uri = result.layout.before_after if name.endswith(".png") else result.layout.report
        try:
            data = await run_in_threadpool(parts.storage.read, uri)
        except ObjectNotFoundError as error:
            raise HTTPException(404, f"{name}: the run has none") from error
        # A report comes from storage: it must not act as this server.
        return Response(data, media_type=GALLERY[name],
                        headers={"Content-Security-Policy": "sandbox allow-scripts"})  # fmt: skip


async def _find(parts: Parts, name: str | None) -> Result:
    results = await run_in_threadpool(parts.catalog.results)
    found = next((each for each in results if name in (None, each.id)), None)
    if found is None:
        known = ", ".join(each.id for each in results[:5]) or "none yet"
        raise HTTPException(404, f"model {name}: no such result; there are: {known}")
    return found


def _add_images(app: FastAPI, parts: Parts) -> None:
    pictures = Pictures()

    def describe(result: Result) -> dict[str, Any]:
        job = parts.catalog.job(result)
        settings = job.spec
        return {
            "id": result.id,
            "object": "model",
            "created": int(result.created.timestamp()),
            "owned_by": job.metadata.namespace,
            "prompt": settings.subjects[0].prompt,
            "class_prompt": settings.subjects[0].class_prompt,
            "base_model": settings.model.source,
            "method": settings.training.method,
            "resolution": settings.training.resolution,
            "steps": settings.samples.steps,
            "guidance_scale": settings.samples.guidance_scale,
            "root": result.layout.root,
        }

    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        """The results, the newest first."""
        results = await run_in_threadpool(parts.catalog.results)
        return {"object": "list", "data": [describe(each) for each in results]}

    @app.get("/v1/models/{model:path}")
    async def get_model(model: str) -> dict[str, Any]:
        """One result."""
        return describe(await _find(parts, model))

    @app.get("/v1/images/files/{name}")
    async def get_picture(name: str) -> Response:
        """An image that was answered by its URL."""
        picture = pictures.get(name)
        if picture is None:
            raise HTTPException(404, "the image is gone: they are kept for an hour")
        return Response(picture.data, media_type=picture.media_type)

    @app.post("/v1/images/generations", response_model=None)
    async def generate(wanted: ImagesRequest, request: Request) -> Response:
        """Make images of a result."""
        try:
            response = await _generate(parts, pictures, wanted, request)
        except StarletteHTTPException as error:
            parts.metrics.requests.labels(str(error.status_code)).inc()
            raise
        except (StorageError, TrainerError) as error:
            parts.metrics.requests.labels(str(_status(error))).inc()
            raise
        parts.metrics.requests.labels(str(response.status_code)).inc()
        return response


async def _generate(
    parts: Parts, pictures: Pictures, wanted: ImagesRequest, request: Request
) -> Response:
    if wanted.n > (most := parts.settings.images_per_request):
        raise HTTPException(400, f"n: at most {most} images a request (got {wanted.n})")
    result = await _find(parts, wanted.model)
    job, config = await run_in_threadpool(parts.models.describe, result)
    seed = wanted.seed if wanted.seed is not None else secrets.randbelow(2**31 - wanted.n)
    plan = make_plan(result.id, job, config, wanted, seed)
    partials = (wanted.partial_images or 0) if wanted.stream else 0
    try:
        stream = Stream(
            parts.engine, parts.metrics, plan.key, wanted.prompt, plan.seeds, partials,
            parts.settings.timeout_seconds,
        )  # fmt: skip
    except QueueFullError as error:
        wait = str(parts.engine.wait_seconds)
        message = f"{error} images wait already; try again in about {wait} seconds"
        raise HTTPException(429, message, {"Retry-After": wait}) from error
    except QueueClosedError as error:
        raise HTTPException(503, "the server is stopping, or its device has failed") from error
    if wanted.stream:
        return EventSourceResponse(
            _events(stream, plan, wanted),
            ping=PING_SECONDS,
            send_timeout=SEND_SECONDS,
            shutdown_grace_period=parts.settings.stop_seconds,
        )
    return await _answer(stream, plan, wanted, pictures, request)


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
        kind = "completed"
        if isinstance(event, Partial):
            kind, fields["partial_image_index"] = "partial_image", event.number
        body = responses.stream_event(kind, wanted, plan.size, **fields)
        yield {"event": body["type"], "data": json.dumps(body)}


async def _answer(
    stream: Stream, plan: Plan, wanted: ImagesRequest, pictures: Pictures, request: Request
) -> Response:
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
    return JSONResponse(responses.images_answer(wanted, plan.size, items))


async def _close_when_left(request: Request, stream: Stream) -> None:
    """Give the request up as soon as its client is gone."""
    # Not `is_disconnected`, which finds nothing out behind a middleware of `app.middleware`.
    while (await request.receive())["type"] != "http.disconnect":
        pass
    stream.close()
