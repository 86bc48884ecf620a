"""HEAD, wherever GET is answered."""

from starlette.types import ASGIApp, Receive, Scope, Send


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
