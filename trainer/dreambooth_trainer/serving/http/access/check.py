"""Who may use the server, and with how long requests: tokens, hosts, bodies."""

from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from dreambooth_trainer.serving.http import responses
from dreambooth_trainer.serving.http.access.tokens import Tokens
from dreambooth_trainer.serving.settings import ServingSettings, names_loopback

MAX_BODY = 64 * 1024


def add_access(app: FastAPI, settings: ServingSettings) -> None:
    """Refuse requests that are not from whom, or not as short as, they should be.

    `request.state.token` is the `Token` of a request.
    """
    tokens = Tokens(settings.tokens(), settings.images_per_hour)

    @app.middleware("http")
    async def check(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        host = request.headers.get("host", "")
        # Else a page on the web could reach it by a name that it points to 127.0.0.1.
        if not tokens.are_needed and not settings.insecure and not names_loopback(host):
            return _refuse(421, f"{host}: is not a name of this server")
        length = request.headers.get("content-length")
        # A body in chunks may be longer than Content-Length says (RFC 9112, section 6.3).
        is_chunked = "transfer-encoding" in request.headers
        if request.method == "POST" and (length is None or is_chunked):
            return _refuse(411, "the length of the body is needed")
        if int(length or 0) > MAX_BODY:
            return _refuse(413, f"the body must have at most {MAX_BODY} bytes")
        needed = request.url.path.startswith(("/v1/", "/results/"))
        # Names of images cannot be guessed.
        needed = needed and not request.url.path.startswith("/v1/images/files/")
        request.state.token = tokens.find(request.headers.get("authorization"))
        if needed and request.state.token is None:
            return _refuse(401, "a valid token is needed", {"WWW-Authenticate": "Bearer"})
        response = await call_next(request)
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


def _refuse(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(responses.error_body(message, status), status, headers)
