"""OpenAI's images API: the results as its models, and images of them."""

import secrets

from fastapi import FastAPI, HTTPException, Request, Response, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPBearer

from dreambooth_trainer.serving.catalog import Result
from dreambooth_trainer.serving.engine.queue import QueueClosedError, QueueFullError
from dreambooth_trainer.serving.http.access.quotas import QuotaError, Quotas
from dreambooth_trainer.serving.http.answers import answer, answer_stream
from dreambooth_trainer.serving.http.errors import FieldError
from dreambooth_trainer.serving.http.find import find_result
from dreambooth_trainer.serving.http.middleware import GENERATIONS, CountRequests
from dreambooth_trainer.serving.http.pictures import Pictures
from dreambooth_trainer.serving.http.plan import has_adapters, make_plan
from dreambooth_trainer.serving.http.requests import ImagesRequest
from dreambooth_trainer.serving.http.schemas import ERRORS, IMAGES, Model, Models
from dreambooth_trainer.serving.http.stream import Stream
from dreambooth_trainer.serving.parts import Parts


def add_images(app: FastAPI, parts: Parts) -> None:
    """Add `/v1/models` and `/v1/images`."""
    pictures, quotas = Pictures(), Quotas()

    def describe(result: Result) -> Model:
        job = parts.catalog.job(result)
        settings = job.spec
        return Model(
            id=result.id,
            created=int(result.created.timestamp()),
            owned_by=job.metadata.namespace,
            prompt=settings.subjects[0].prompt,
            class_prompt=settings.subjects[0].class_prompt,
            base_model=settings.model.source,
            method=settings.training.method,
            has_adapters=has_adapters(job),
            resolution=settings.training.resolution,
            steps=settings.samples.steps,
            guidance_scale=settings.samples.guidance_scale,
            root=result.layout.root,
        )

    # For /openapi.json alone: `add_access` checks tokens, also those of other paths.
    token = [Security(HTTPBearer(auto_error=False))]

    @app.get("/v1/models", responses=ERRORS, dependencies=token)
    async def list_models() -> Models:
        """The results, the newest first."""
        results = await run_in_threadpool(parts.catalog.results)
        return Models(data=[describe(each) for each in results])

    @app.get("/v1/models/{model:path}", responses=ERRORS, dependencies=token)
    async def get_model(model: str) -> Model:
        """One result."""
        return describe(await find_result(parts, model))

    @app.get("/v1/images/files/{name}", responses=ERRORS, response_class=Response)
    async def get_picture(name: str) -> Response:
        """An image that was answered by its URL."""
        picture = pictures.get(name)
        if picture is None:
            raise HTTPException(404, "the image is gone: they are kept for an hour")
        return Response(picture.data, media_type=picture.media_type)

    app.add_middleware(CountRequests, requests=parts.metrics.requests)

    @app.post(GENERATIONS, response_model=None, responses=IMAGES, dependencies=token)
    async def generate(wanted: ImagesRequest, request: Request) -> Response:
        """Make images of a result.

        The answer has `warnings`, a list of sentences: of a prompt whose end the model does not
        read, of an unusual size, of a field that may be misspelt. In a stream, each event
        `image_generation.completed` has it.
        """
        return await _generate(parts, pictures, quotas, wanted, request)


async def _generate(
    parts: Parts, pictures: Pictures, quotas: Quotas, wanted: ImagesRequest, request: Request
) -> Response:
    if wanted.n > (most := parts.settings.images_per_request):
        raise FieldError("n", f"n: at most {most} images a request (got {wanted.n})")
    token = request.state.token
    if token.images_per_hour is not None and wanted.n > token.images_per_hour:
        raise FieldError(
            "n", f"n: the token has {token.images_per_hour} images an hour (got {wanted.n})"
        )
    result = await find_result(parts, wanted.model)
    job, config = await run_in_threadpool(parts.models.describe, result)
    seed = wanted.seed if wanted.seed is not None else secrets.randbelow(2**31 - wanted.n)
    plan = make_plan(result, job, config, wanted, seed)
    partials = (wanted.partial_images or 0) if wanted.stream else 0
    try:
        quotas.check(token, wanted.n)
        stream = Stream(
            parts.engine, parts.metrics, plan.key, plan.use, wanted.prompt, plan.seeds, partials,
            parts.settings.timeout_seconds,
        )  # fmt: skip
    except QuotaError as error:
        raise HTTPException(429, str(error), {"Retry-After": str(error.wait_seconds)}) from error
    except QueueFullError as error:
        wait = str(parts.engine.wait_seconds)
        message = f"{error} images wait already; try again in about {wait} seconds"
        raise HTTPException(429, message, {"Retry-After": wait}) from error
    except QueueClosedError as error:
        raise HTTPException(503, "the server is stopping, or its device has failed") from error
    # Only now: a request that got no place costs nothing.
    quotas.charge(token, wanted.n)
    if wanted.stream:
        return answer_stream(stream, plan, wanted, parts.settings.stop_seconds)
    return await answer(stream, plan, wanted, pictures, request)
