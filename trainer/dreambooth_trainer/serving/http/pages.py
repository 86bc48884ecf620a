"""The page at `/`, and the files of runs that it shows."""

from pathlib import Path

from fastapi import FastAPI, HTTPException, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse

from dreambooth_storage import ObjectNotFoundError
from dreambooth_trainer import serving
from dreambooth_trainer.serving.http.find import find_result
from dreambooth_trainer.serving.parts import Parts

PAGE = Path(serving.__file__).parent / "page"
PAGE_FILES = {"": "index.html", "page.css": "page.css", "page.js": "page.js"}
GALLERY = {"before-after.png": "image/png", "report.html": "text/html"}
"""Files of a run that the page shows."""
POLICY = "default-src 'self'; img-src 'self' blob: data:; style-src 'self'; frame-ancestors 'none'"


def add_page(app: FastAPI, parts: Parts) -> None:
    """Add the page."""

    def add_file(path: str, name: str) -> None:
        @app.get(f"/{path}", include_in_schema=False)
        async def page_file() -> Response:
            return FileResponse(PAGE / name, headers={"Content-Security-Policy": POLICY})

    for path, name in PAGE_FILES.items():
        add_file(path, name)

    @app.get("/results/{model:path}/files/{name}", include_in_schema=False)
    async def result_file(model: str, name: str) -> Response:
        result = await find_result(parts, model)
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
