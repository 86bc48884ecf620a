"""Liveness, readiness and metrics, as Kubernetes and Prometheus ask for them."""

from fastapi import FastAPI, Response
from fastapi.concurrency import run_in_threadpool
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from dreambooth_storage import StorageError
from dreambooth_trainer.serving.parts import Parts


def add_health(app: FastAPI, parts: Parts) -> None:
    """Add `/healthz`, `/readyz` and `/metrics`."""

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
