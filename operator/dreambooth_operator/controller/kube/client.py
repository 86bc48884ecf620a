"""A client of the API server's REST interface: JSON in, JSON out, errors from `errors`."""

import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import aiohttp
from aiohttp import hdrs

from dreambooth_operator.controller.kube import errors
from dreambooth_operator.controller.kube.kinds import Kind
from dreambooth_operator.controller.kube.session import Session
from dreambooth_operator.manifests.names import Manifest

# Under another name, the fields that earlier versions applied would stay theirs for ever.
FIELD_MANAGER = "dreambooth-operator"
# Seconds. A server under load may need long for a page; a connection that hangs is given up soon.
TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=5)
PAGE = 100
"""Objects on one page of a list: a page of pods takes a few megabytes while it is read."""
DEFAULT_RETRY_AFTER = 1.0
"""Seconds to wait after HTTP 429 without a Retry-After header."""

BY_RBAC = re.compile('User ".*" cannot ')
"""In the message of a request that the authorizer refuses."""

# JSON is YAML, too.
APPLY = "application/apply-patch+yaml"
JSON_PATCH = "application/json-patch+json"


class Page:
    """A page of at most `PAGE` objects of a list (meta/v1 ListMeta)."""

    def __init__(self, body: Manifest) -> None:
        self.items: list[Manifest] = body.get("items") or []
        self.version = int(body["metadata"].get("resourceVersion") or 0)
        """Version of the whole list, the same on every page."""
        self.continue_token: str = body["metadata"].get("continue") or ""
        """Empty on the last page."""


class Api:
    """Requests to the API server. Every method may raise an `errors.ApiError`; none retries."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._client: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections; a later request opens new ones."""
        if self._client is not None:
            await self._client.close()

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest:
        """Read an object from the API server, bypassing the cache.

        Raises:
            NotFoundError: There is none of that name.
        """
        return await self._send("GET", kind.path(namespace, name))

    async def version(self) -> Manifest:
        """Read the API server's version: a cheap request that needs no permission."""
        return await self._send("GET", "/version")

    async def pages(
        self, kind: Kind, namespace: str | None, fields: str = ""
    ) -> AsyncIterator[Page]:
        """List the objects that a kind's selector matches, page by page; no namespace means all.

        `fields` is a field selector.

        Raises:
            ConflictError: The next page was requested too late (HTTP 410): list again.
        """
        parameters = {"limit": str(PAGE)}
        if kind.selector:
            parameters["labelSelector"] = kind.selector
        if fields:
            parameters["fieldSelector"] = fields
        while True:
            page = Page(await self._send("GET", kind.path(namespace), parameters=parameters))
            yield page
            if not page.continue_token:
                return
            parameters["continue"] = page.continue_token

    async def apply(self, kind: Kind, manifest: Manifest) -> Manifest:
        """Create or change an object by server-side apply (meta/v1 ApplyOptions).

        Fields that another manager owns are taken over, as only the operator may set them.
        """
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
        """Replace the whole status of an object.

        Raises:
            ConflictError: The object no longer has this `version`.
        """
        operations: list[Manifest] = [
            # A JSON patch and not a merge patch, in which a field that is left out would stay as it
            # was.
            # Makes the API server compare versions, as a merge patch's resourceVersion does.
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
        """Create an object; raises `ConflictError` if one of its name exists."""
        path = kind.path(body["metadata"]["namespace"])
        return await self._send("POST", path, body, parameters={"fieldManager": FIELD_MANAGER})

    async def replace(self, kind: Kind, body: Manifest) -> Manifest:
        """Replace an object; raises `ConflictError` if its version has changed."""
        meta = body["metadata"]
        return await self._send("PUT", kind.path(meta["namespace"], meta["name"]), body)

    async def delete(
        self, kind: Kind, namespace: str, name: str, uid: str, *, propagation: str
    ) -> Manifest:
        """Delete an object; `propagation` is a meta/v1 DeletionPropagation.

        Raises:
            ConflictError: The object of this name has another uid.
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
        request = f"{method} {path}"
        try:
            async with self._connected().request(
                method,
                self._session.server + path,
                params=parameters,
                data=None if body is None else json.dumps(body),
                headers={hdrs.CONTENT_TYPE: content_type, hdrs.ACCEPT: "application/json"},
                timeout=TIMEOUT,
            ) as response:
                content = await response.read()
                if response.status >= 400:
                    raise _error(request, response.status, response.headers, content)
                # A body that is not JSON comes from a proxy on the way, not from the API server: a
                # ValueError.
                body_read: Manifest = json.loads(content)
                return body_read
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise errors.UnavailableError(f"{request}: {error or type(error).__name__}") from error

    def _connected(self) -> aiohttp.ClientSession:
        # Opened at the first request: a session belongs to the event loop that runs then.
        if self._client is None or self._client.closed:
            self._client = self._session.connect()
        return self._client


def _error(
    request: str, status: int, headers: Mapping[str, str], content: bytes
) -> errors.ApiError:
    """The error for a response with this HTTP status and body (meta/v1 Status)."""
    try:
        body: Any = json.loads(content)
        message = f"{request}: {body['message']}"
    except (ValueError, TypeError, KeyError):
        message = f"{request}: HTTP {status}"
    if status == 403 and b'"NamespaceTerminating"' in content:  # no Role would help
        return errors.UnavailableError(message)
    if status == 500 and b"failed to create typed patch object" in content:
        # An unknown field in server-side apply is reported as an internal error.
        return errors.InvalidError(message)
    if status == 500 and b"failed calling webhook" in content:
        return errors.WebhookError(message)
    if status == 429:
        return errors.TooManyRequestsError(message, _retry_after(headers))
    if status == 422 and b'"field":"metadata.uid"' in content.replace(b" ", b""):
        # A patch for an object whose name belongs to another one by now.
        return errors.ConflictError(message)
    # Quotas, policies and webhooks answer 403, too: no other permission would help there.
    if status == 403 and BY_RBAC.search(message):
        return errors.ForbiddenError(f"{message}; grant it in the operator's Role or ClusterRole")
    if status == 403:
        return errors.ForbiddenError(message)
    # 401: tokens rotate, and the session has already tried the newest one.
    if status >= 500 or status in (401, 408):
        return errors.UnavailableError(message)
    by_status = {404: errors.NotFoundError, 409: errors.ConflictError, 410: errors.ConflictError}
    return by_status.get(status, errors.InvalidError)(message)


def _retry_after(headers: Mapping[str, str]) -> float:
    try:
        return max(float(headers[hdrs.RETRY_AFTER]), 0.0)
    except (KeyError, ValueError):
        return DEFAULT_RETRY_AFTER
