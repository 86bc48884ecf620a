"""The HTTP server: OpenAI's images API, a page, health and metrics."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool

from dreambooth_trainer.serving.http.access.check import add_access
from dreambooth_trainer.serving.http.errors import add_errors
from dreambooth_trainer.serving.http.health import add_health
from dreambooth_trainer.serving.http.images import add_images
from dreambooth_trainer.serving.http.middleware import HeadAsGet
from dreambooth_trainer.serving.http.pages import add_page
from dreambooth_trainer.serving.parts import Parts


def make_app(parts: Parts) -> FastAPI:
    """The application; the engine runs while it does."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        parts.engine.start()
        yield
        await run_in_threadpool(parts.engine.stop, parts.settings.stop_seconds)

    # Without the pages of FastAPI, which load scripts from elsewhere.
    app = FastAPI(title="dreambooth", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(HeadAsGet)
    add_errors(app)
    add_access(app, parts.settings)
    add_health(app, parts)
    add_page(app, parts)
    add_images(app, parts)
    return app
