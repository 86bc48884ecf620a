"""What stands around all routes."""

from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

GENERATIONS = "/v1/images/generations"


class HeadAsGet:
    """Answers HEAD as GET; the HTTP server, which knows better, sends no content."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            # A copy: by its own one, the HTTP server drops the content (RFC 9110, section 9.3.2).
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


class CountRequests:
    """Counts requests for images by the status of their answers; a stream counts when it begins.

    It has to stand outside of all that refuses requests.
    """

    def __init__(self, app: ASGIApp, requests: Counter) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""

        async def count(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._requests.labels(str(message["status"])).inc()
            await send(message)

        is_counted = (
            scope["type"] == "http"
            and scope["method"] == "POST"
            and scope["path"].endswith(GENERATIONS)
        )
        await self._app(scope, receive, count if is_counted else send)
