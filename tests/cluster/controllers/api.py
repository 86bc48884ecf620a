"""The API server over HTTP, with objects as plain dicts: requests, lists, watches."""

import base64
import json
import ssl
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

Object = dict[str, Any]

JSON_PATCH = "application/json-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"
METADATA_ONLY = "application/json;as={};g=meta.k8s.io;v=v1,application/json"


class ApiError(Exception):
    """An answer that is no success: the HTTP status code, and the server's `Status` in words."""

    def __init__(self, code: int, status: Object) -> None:
        super().__init__(f"{code} {status.get('reason', '')}: {status.get('message', '')}")
        self.code = code
        self.status = status

    def caused_by(self, reason: str) -> bool:
        """Whether the `Status` lists a cause with this reason."""
        causes = (self.status.get("details") or {}).get("causes") or []
        return any(cause.get("reason") == reason for cause in causes)


@dataclass(frozen=True)
class Resource:
    """A kind of object that the server keeps, and where it is found."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        """The path of a collection, of one object (with `name`) or of its subresource."""
        prefix = f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"
        place = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        parts = [prefix + place, self.plural, name, subresource]
        return "/".join(part for part in parts if part)

    def path_of(self, object_: Object, subresource: str = "") -> str:
        """The path of an object that is known."""
        meta = object_["metadata"]
        return self.path(meta.get("namespace"), meta["name"], subresource)


PODS = Resource("", "v1", "pods", "Pod")
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
EVENTS = Resource("", "v1", "events", "Event")
JOBS = Resource("batch", "v1", "jobs", "Job")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
CRDS = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", False
)


class Api:
    """One connection pool to one API server. Use as an async context manager."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        entry = {key: {item["name"]: item for item in config[key]} for key in ENTRIES}
        context = entry["contexts"][config["current-context"]]["context"]
        cluster = entry["clusters"][context["cluster"]]["cluster"]
        token = entry["users"][context["user"]]["user"].get("token", "")
        self._server: str = cluster["server"]
        self._ssl = _ssl_context(cluster)
        self._headers = {"User-Agent": "dreambooth-test-controllers"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"

    async def __aenter__(self) -> "Api":
        self._session = aiohttp.ClientSession(
            self._server,
            headers=self._headers,
            connector=aiohttp.TCPConnector(limit=0, ssl=self._ssl),
            timeout=aiohttp.ClientTimeout(total=15),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def get(self, path: str, accept: str = "application/json", **query: str) -> Object:
        return await self._request("GET", path, {"Accept": accept}, query)

    async def post(self, path: str, body: Object) -> Object:
        return await self._request("POST", path, body=body)

    async def put(self, path: str, body: Object) -> Object:
        return await self._request("PUT", path, body=body)

    async def patch(self, path: str, body: object, kind: str) -> Object:
        return await self._request("PATCH", path, {"Content-Type": kind}, body=body)

    async def delete(self, path: str, **options: object) -> Object:
        """Delete with `DeleteOptions` (propagationPolicy, preconditions, gracePeriodSeconds)."""
        return await self._request("DELETE", path, body=options)

    async def watch(self, path: str, accept: str, **query: str) -> AsyncGenerator[Object, None]:
        """The events of a watch, until the server or `timeoutSeconds` ends it."""
        timeout = aiohttp.ClientTimeout(total=None, sock_read=90)
        headers, query = {"Accept": accept}, query | {"watch": "true"}
        async with self._session.get(
            path, params=query, headers=headers, timeout=timeout
        ) as response:
            if response.status >= 400:
                raise ApiError(response.status, _status(await response.read()))
            rest = b""
            async for chunk in response.content.iter_any():  # lines may be longer than any buffer
                *lines, rest = (rest + chunk).split(b"\n")
                for line in filter(None, lines):
                    yield json.loads(line)

    async def _request(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        query: dict[str, str] | None = None,
        body: object = None,
    ) -> Object:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} | (headers or {})
        async with self._session.request(
            method, path, params=query, headers=headers, data=data
        ) as response:
            answer = await response.read()
            if response.status >= 400:
                raise ApiError(response.status, _status(answer))
            answered: Object = json.loads(answer)
            return answered


ENTRIES = ("clusters", "users", "contexts")
"""The lists of a kubeconfig, whose items are found by name."""


def _ssl_context(cluster: Object) -> ssl.SSLContext | bool:
    if cluster.get("insecure-skip-tls-verify"):
        return False
    if data := cluster.get("certificate-authority-data"):
        return ssl.create_default_context(cadata=base64.b64decode(data).decode())
    return ssl.create_default_context(cafile=cluster.get("certificate-authority"))


def _status(answer: bytes) -> Object:
    try:
        status = json.loads(answer)
    except ValueError:
        return {"message": answer.decode(errors="replace")[:200]}
    return status if isinstance(status, dict) else {"message": str(status)}
