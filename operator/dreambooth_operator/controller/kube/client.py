"""The API server's REST interface: JSON in, JSON out, errors from `errors`."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import aiohttp
from aiohttp import hdrs

from dreambooth_operator.controller.kube import errors
from dreambooth_operator.controller.kube.kinds import Kind
from dreambooth_operator.controller.kube.session import Session
from dreambooth_operator.manifests.names import Manifest

FIELD_MANAGER = "dreambooth-operator"
TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=5)
PAGE = 100
"""Objects on one page of a list: a page of pods takes a few megabytes while it is read."""
BUSY_SECONDS = 1.0
"""Wait after 429 without Retry-After."""

APPLY = "application/apply-patch+yaml"
JSON_PATCH = "application/json-patch+json"


class Page:
    """A page of a list."""

    def __init__(self, body: Manifest) -> None:
        self.items: list[Manifest] = body.get("items") or []
        self.version = int(body["metadata"].get("resourceVersion") or 0)
        """Version of the whole list, the same on every page."""
        self.rest: str = body["metadata"].get("continue") or ""
        """Token of the next page."""


class Api:
    """Requests to the API server. Every method raises an `errors.ApiError`; none tries twice."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._client: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest:
        """An object as it is now, not as a cache remembers it."""
        return await self._send("GET", kind.path(namespace, name))

    async def version(self) -> Manifest:
        """The API server's version: it costs nothing, and everybody may ask for it."""
        return await self._send("GET", "/version")

    async def pages(self, kind: Kind, namespace: str | None) -> AsyncIterator[Page]:
        """All objects of a kind that its selector matches, page by page."""
        parameters = {"limit": str(PAGE)}
        if kind.selector:
            parameters["labelSelector"] = kind.selector
        while True:
            page = Page(await self._send("GET", kind.path(namespace), parameters=parameters))
            yield page
            if not page.rest:
                return
            parameters["continue"] = page.rest

    async def apply(self, kind: Kind, manifest: Manifest) -> Manifest:
        """Server-side apply: make the object, or make it look like this."""
        meta = manifest["metadata"]
        return await self._send(
            "PATCH",
            kind.path(meta["namespace"], meta["name"]),
            manifest,
            content_type=APPLY,
            parameters={"fieldManager": FIELD_MANAGER, "force": "true"},
        )

    async def replace_status(
        self, kind: Kind, namespace: str, name: str, version: int, status: Manifest
    ) -> Manifest:
        """Replace the whole status of the object with that version; `ConflictError` when it
        changed.
        """
        operations: list[Manifest] = [
            {"op": "add", "path": "/metadata/resourceVersion", "value": str(version)},
            {"op": "add", "path": "/status", "value": status},
        ]
        return await self._send(
            "PATCH",
            kind.path(namespace, name, "status"),
            operations,
            content_type=JSON_PATCH,
            parameters={"fieldManager": FIELD_MANAGER},
        )

    async def create(self, kind: Kind, body: Manifest) -> Manifest:
        """Make an object; `ConflictError` when there is one of that name."""
        path = kind.path(body["metadata"]["namespace"])
        return await self._send("POST", path, body, parameters={"fieldManager": FIELD_MANAGER})

    async def replace(self, kind: Kind, body: Manifest) -> Manifest:
        """Replace an object; `ConflictError` when its version is another by now."""
        meta = body["metadata"]
        return await self._send("PUT", kind.path(meta["namespace"], meta["name"]), body)

    async def delete(
        self, kind: Kind, namespace: str, name: str, uid: str, *, propagation: str
    ) -> Manifest:
        """Delete the object with that uid; `ConflictError` when the name is another one's by
        now.
        """
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": propagation,
            "preconditions": {"uid": uid},
        }
        return await self._send("DELETE", kind.path(namespace, name), options)

    async def _send(
        self,
        method: str,
        path: str,
        body: Manifest | Sequence[Manifest] | None = None,
        *,
        content_type: str = "application/json",
        parameters: Mapping[str, str] | None = None,
    ) -> Manifest:
        what = f"{method} {path}"
        try:
            async with self._connected().request(
                method,
                self._session.server + path,
                params=parameters,
                data=None if body is None else json.dumps(body),
                headers={hdrs.CONTENT_TYPE: content_type, hdrs.ACCEPT: "application/json"},
                timeout=TIMEOUT,
            ) as answer:
                content = await answer.read()
                if answer.status >= 400:
                    raise _error(what, answer.status, answer.headers, content)
                found: Manifest = json.loads(content)
                return found
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise errors.UnavailableError(f"{what}: {error or type(error).__name__}") from error

    def _connected(self) -> aiohttp.ClientSession:
        if self._client is None or self._client.closed:
            self._client = self._session.connect()
        return self._client


def _error(what: str, status: int, headers: Mapping[str, str], content: bytes) -> errors.ApiError:
    """The error that an answer tells of (meta/v1 Status)."""
    try:
        told: Any = json.loads(content)
        message = f"{what}: {told['message']}"
    except (ValueError, TypeError, KeyError):
        message = f"{what}: HTTP {status}"
    if status == 403 and b'"NamespaceTerminating"' in content:  # no Role would help
        return errors.UnavailableError(message)
    if status == 500 and b"failed to create typed patch object" in content:
        return errors.InvalidError(message)  # an unknown field in server-side apply
    if status == 429:
        return errors.TooManyRequestsError(message, _retry_after(headers))
    if status == 403 and b"exceeded quota" in content:
        return errors.ForbiddenError(message)
    if status == 403:
        return errors.ForbiddenError(f"{message}; grant it in the operator's Role or ClusterRole")
    if status >= 500 or status in (401, 408):
        return errors.UnavailableError(message)
    known = {404: errors.NotFoundError, 409: errors.ConflictError, 410: errors.ConflictError}
    return known.get(status, errors.InvalidError)(message)


def _retry_after(headers: Mapping[str, str]) -> float:
    try:
        return max(float(headers[hdrs.RETRY_AFTER]), 0.0)
    except (KeyError, ValueError):
        return BUSY_SECONDS
