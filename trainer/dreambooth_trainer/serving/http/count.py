"""Counts requests for images by the status of their answers, whoever gives it."""

from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATH = "/v1/images/generations"


class CountRequests:
    """Middleware: outside of all that refuses requests. A stream counts when it begins."""

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
            scope["type"] == "http" and scope["method"] == "POST" and scope["path"].endswith(PATH)
        )
        await self._app(scope, receive, count if is_counted else send)
