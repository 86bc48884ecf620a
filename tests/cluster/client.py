"""A small asynchronous client of the Kubernetes API: JSON in, JSON out."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client.configuration import Configuration

Object = dict[str, Any]
"""A Kubernetes object."""

JSON = "application/json"

TRANSIENT = (aiohttp.ClientError, TimeoutError, OSError)
"""What a call raises while the API server is away."""
REQUEST_SECONDS = 10.0
WATCH_SECONDS = 20
"""A watch ends by itself after this long, and is followed by a list: nothing is missed for longer.
"""


class ApiError(Exception):
    """The API server refused a request; `details` are those of its `Status`."""

    def __init__(self, code: int, message: str, details: Object | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.details = details or {}

    @property
    def transient(self) -> bool:
        """Asking again may help."""
        return self.code == 429 or self.code >= 500


@contextmanager
def tolerate(*codes: int) -> Iterator[None]:
    """Within this, a refusal with one of these codes ends the block without an error."""
    try:
        yield
    except ApiError as error:
        if error.code not in codes:
            raise


class Client:
    """Requests to one API server. Every method raises `ApiError` or one of `TRANSIENT`."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def get(self, path: str, *, accept: str = JSON, **parameters: str) -> Object:
        """An object or a list."""
        return await self._request("GET", path, accept=accept, parameters=parameters)

    async def create(self, path: str, body: Object) -> Object:
        """Create an object in a collection."""
        return await self._request("POST", path, body)

    async def replace(self, path: str, body: Object) -> Object:
        """Replace an object or its subresource."""
        return await self._request("PUT", path, body)

    async def patch(
        self, path: str, body: Object | list[Object], kind: str = "strategic-merge-patch+json"
    ) -> Object:
        """Patch an object or its subresource."""
        return await self._request("PATCH", path, body, content_type=f"application/{kind}")

    async def delete(self, path: str, options: Object | None = None) -> Object:
        """Delete an object; `options` are DeleteOptions."""
        return await self._request("DELETE", path, options)

    async def watch(
        self, path: str, *, accept: str = JSON, **parameters: str
    ) -> AsyncGenerator[Object, None]:
        """Watch events `{"type", "object"}`, until the watch ends."""
        parameters |= {"watch": "true", "timeoutSeconds": str(WATCH_SECONDS)}
        timeout = aiohttp.ClientTimeout(sock_connect=REQUEST_SECONDS, sock_read=WATCH_SECONDS + 10)
        async with self._session.get(
            path, params=parameters, headers={"Accept": accept}, timeout=timeout
        ) as answer:
            await _check(answer)
            line = b""
            async for chunk in answer.content.iter_any():
                *lines, line = (line + chunk).split(b"\n")
                for each in lines:
                    yield _event(json.loads(each))

    async def _request(
        self,
        method: str,
        path: str,
        body: Object | list[Object] | None = None,
        *,
        accept: str = JSON,
        content_type: str = JSON,
        parameters: dict[str, str] | None = None,
    ) -> Object:
        async with self._session.request(
            method,
            path,
            data=json.dumps(body) if body is not None else None,
            headers={"Content-Type": content_type, "Accept": accept},
            params=parameters,
        ) as answer:
            await _check(answer)
            found: Object = await answer.json()
            return found


async def _check(answer: aiohttp.ClientResponse) -> None:
    if answer.status >= 400:
        text = await answer.text()
        try:
            status = json.loads(text)
            raise ApiError(answer.status, status["message"], status.get("details"))
        except (ValueError, KeyError):
            raise ApiError(answer.status, text.strip() or answer.reason or "") from None


def _event(event: Object) -> Object:
    """The event; an error in place of an object is raised."""
    if event["type"] == "ERROR":
        status = event["object"]
        raise ApiError(status.get("code", 500), status.get("message", ""))
    return event


@asynccontextmanager
async def connect(kubeconfig: Path, user_agent: str) -> AsyncIterator[Client]:
    """A client with the kubeconfig's address, trust and credentials."""
    settings = Configuration()
    await config.load_kube_config(str(kubeconfig), client_configuration=settings)
    token = await settings.get_api_key_with_prefix("BearerToken")
    headers = {"User-Agent": user_agent} | ({"Authorization": token} if token else {})
    async with aiohttp.ClientSession(
        base_url=f"{settings.host.rstrip('/')}/",
        headers=headers,
        connector=aiohttp.TCPConnector(limit=0, ssl=_trust(settings)),  # each watch holds one
        timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS),
    ) as session:
        yield Client(session)


def _trust(settings: Configuration) -> ssl.SSLContext | bool:
    if not settings.host.startswith("https"):
        return True
    trust = ssl.create_default_context(cafile=settings.ssl_ca_cert)
    trust.verify_flags &= ~ssl.VERIFY_X509_STRICT  # clusters' own authorities omit key ids
    if settings.cert_file:
        trust.load_cert_chain(settings.cert_file, settings.key_file)
    if not settings.verify_ssl:
        trust.check_hostname = False
        trust.verify_mode = ssl.CERT_NONE
    return trust
