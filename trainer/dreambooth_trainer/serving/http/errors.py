"""What clients are told of errors: a status, and a body as OpenAI's clients read it."""

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from dreambooth_storage import StorageError
from dreambooth_trainer.process.errors import TrainerError
from dreambooth_trainer.serving.http import responses
from dreambooth_trainer.serving.http.refusals import explain


class FieldError(HTTPException):
    """A field of a request is refused (400); the message names it, as those of pydantic do."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(400, message)
        self.field = field


def add_errors(app: FastAPI) -> None:
    """Answer errors of requests, of storage and of the trainer."""

    async def answer(_: Request, error: Exception) -> Response:
        headers: dict[str, str] = {}
        param = None
        if isinstance(error, RequestValidationError):
            status, (param, message) = 400, explain(error.errors()[0])
        elif isinstance(error, StarletteHTTPException):
            status, message = error.status_code, str(error.detail)
            headers = dict(error.headers or {})
            param = error.field if isinstance(error, FieldError) else None
        else:
            status, message = 502 if isinstance(error, StorageError) else 400, str(error)
        return JSONResponse(responses.error_body(message, status, param), status, headers)

    for kind in (RequestValidationError, StarletteHTTPException, StorageError, TrainerError):
        app.add_exception_handler(kind, answer)
