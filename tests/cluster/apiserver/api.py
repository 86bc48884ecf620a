"""The HTTP side: a request's path to what it asks for, and the answer's headers."""

from __future__ import annotations

import json
import logging
import uuid
from typing import Any

import yaml
from aiohttp import web

from dreambooth_api.parsing import yamljson
from tests.cluster.apiserver import discovery
from tests.cluster.apiserver.audit import AuditLog
from tests.cluster.apiserver.decoding import Decoder
from tests.cluster.apiserver.deletion import Deleter
from tests.cluster.apiserver.errors import (
    ApiError,
    bad_request,
    method_not_allowed,
    not_served,
    unsupported_media_type,
)
from tests.cluster.apiserver.faults import Faults
from tests.cluster.apiserver.openapi_schemas import published
from tests.cluster.apiserver.pods import Pods
from tests.cluster.apiserver.reads import Reader
from tests.cluster.apiserver.representations import FullObject, MetadataOnly, Representation
from tests.cluster.apiserver.requests import TRUE, ApiRequest
from tests.cluster.apiserver.resources import Json, Registry
from tests.cluster.apiserver.settings import Settings
from tests.cluster.apiserver.store import Store, Stored, encode
from tests.cluster.apiserver.tables import Tables
from tests.cluster.apiserver.watches import Watch
from tests.cluster.apiserver.writes import Writer

VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
HEALTH = ("/healthz", "/readyz", "/livez")
FIRST_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")


class NoSuchGroupError(Exception):
    """A path of a group or version that is not served: answered without a Status."""


class Api:
    """Everything behind the API's paths."""

    def __init__(self, settings: Settings) -> None:
        self.store = Store(settings.history)
        self.registry = Registry()
        self.records = AuditLog()
        self.faults = Faults()
        self._version = settings.schema_version
        self._reader = Reader(self.store)
        self._deleter = Deleter(self.store, self.registry)
        self._pods = Pods(self.store, self._deleter)
        decoder = Decoder(published(self._version), self.records)
        self._writer = Writer(
            settings, self.store, self.registry, decoder, self.records, self._deleter
        )
        for name in FIRST_NAMESPACES:
            self._create_namespace(name)

    def _create_namespace(self, name: str) -> None:
        resource = self.registry.find("", "v1", "namespaces")
        assert resource is not None
        body = {"metadata": {"name": name}}
        self._writer.create(ApiRequest("create", resource, body=body, user_agent="apiserver"))

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer any request; what goes wrong is answered as a Status."""
        try:
            await self.faults.inject(request)
            return await self._answer(request)
        except NoSuchGroupError:
            return web.Response(status=404, text="404 page not found\n")
        except ApiError as error:
            return _refusal(error)
        except Exception as error:
            logging.exception("%s %s", request.method, request.path_qs)
            status = ApiError(500, "InternalError", f"Internal error occurred: {error!r}").status
            return _json(encode(status), 500)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path.rstrip("/") or "/"
        if path.startswith(HEALTH):
            return web.Response(text="ok")
        if (found := self._described(path)) is not None:
            return _json(encode(found))
        call = await self._call(request)
        code = 500
        try:
            response = await self._perform(request, call)
            code = response.status
        except ApiError as error:
            code = error.code
            response = _refusal(error)
        finally:
            self.records.count(call, code)
        for text in call.warnings:
            quoted = text.replace("\\", "\\\\").replace('"', '\\"')
            response.headers.add("Warning", f'299 - "{quoted}"')
        return response

    def _described(self, path: str) -> Json | None:
        """What is served, for the paths that describe it."""
        if path == "/version":
            major, minor = self._version.split(".")
            version = f"v{self._version}.0"
            return {"major": major, "minor": minor, "gitVersion": version, "platform": "double"}
        if path == "/api":
            return discovery.core_versions()
        if path == "/apis":
            return discovery.group_list(self.registry)
        if path == "/openapi/v3":
            return discovery.openapi_index(self.registry)
        if path.startswith("/openapi/v3/"):
            return discovery.openapi(self.registry, path.removeprefix("/openapi/v3/"))
        parts = path.split("/")[1:]
        if parts[0] == "api" and len(parts) == 2:
            return discovery.resource_list(self.registry, "", parts[1])
        if parts[0] == "apis" and len(parts) == 2:
            return discovery.group(self.registry, parts[1])
        if parts[0] == "apis" and len(parts) == 3:
            return discovery.resource_list(self.registry, parts[1], parts[2])
        return None

    async def _call(self, request: web.Request) -> ApiRequest:
        parts = request.path.strip("/").split("/")
        if parts[0] == "api":
            group, version, *rest = "", *parts[1:]
        elif parts[0] == "apis" and len(parts) > 3:
            group, version, *rest = parts[1:]
        else:
            raise not_served()
        namespace = ""
        in_namespace = rest[:1] == ["namespaces"] and len(rest) > 2
        if in_namespace and rest[2] not in ("status", "finalize"):
            namespace, rest = rest[1], rest[2:]
        plural, name, subresource = [*rest, "", "", ""][:3]
        resource = self.registry.find(group, version, plural)
        if discovery.resource_list(self.registry, group, version) is None:
            raise NoSuchGroupError
        if resource is None or len(rest) > 3:
            raise not_served()
        query = dict(request.query)
        verb = VERBS.get(request.method) or _reading_verb(query, name)
        if verb == "delete" and not name:
            verb = "deletecollection"
        return ApiRequest(
            verb,
            resource,
            namespace,
            name,
            subresource,
            query,
            await _body(request),
            request.content_type,
            request.headers.get("User-Agent", ""),
        )

    async def _perform(self, request: web.Request, call: ApiRequest) -> web.StreamResponse:
        form = _form(request)
        if call.resource.kind == "SelfSubjectAccessReview":
            return _json(encode(discovery.access_review(call)), 201)
        if call.subresource not in ("", "status", "finalize"):
            return self._subresource(call)
        _check_served(call)
        match call.verb:
            case "watch":
                return await self._watch(request, call, form)
            case "list":
                return _json(self._reader.page(call, form))
            case "get":
                return _json(self._reader.get(call, form))
            case "delete":
                return _json(encode(self._deleter.delete(call)))
            case "deletecollection":
                return _json(self._delete_all(call))
        content, code = self._write(call)
        return _json(form.one(call.resource, Stored(content)), code)

    def _write(self, call: ApiRequest) -> tuple[Json, int]:
        if call.verb == "create":
            if call.name:
                raise method_not_allowed()
            return self._writer.create(call), 201
        if call.verb == "update":
            return self._writer.update(call), 200
        existed = self.store.get(call.resource, call.namespace, call.name) is not None
        return self._writer.patch(call), 200 if existed else 201

    def _delete_all(self, call: ApiRequest) -> bytes:
        """Delete what is selected; answers with the list of it."""
        found = self._reader.selected(call)
        for one in found:
            namespace, name = one.key
            self._deleter.delete(
                ApiRequest(
                    "delete", call.resource, namespace, name, query=call.query, body=call.body
                )
            )
        return FullObject().many(call.resource, {"resourceVersion": str(self.store.version)}, found)

    def _subresource(self, call: ApiRequest) -> web.Response:
        match call.resource.plural, call.subresource, call.verb:
            case "pods", "binding", "create":
                return _json(encode(self._pods.bind(call)), 201)
            case "pods", "eviction", "create":
                return _json(encode(self._pods.evict(call)), 201)
            case "pods", "log", "get":
                return web.Response(text=self._pods.log(call))
        raise not_served()

    async def _watch(
        self, request: web.Request, call: ApiRequest, form: Representation
    ) -> web.StreamResponse:
        watch = Watch(self.store, call, form)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        closed = self.faults.opened(watch)
        try:
            await response.prepare(request)
            async for line in watch.events():
                await response.write(line)
        except ConnectionError:
            pass
        finally:
            closed()
        return response


def _refusal(error: ApiError) -> web.StreamResponse:
    return _json(encode(error.status), error.code, error.headers)


def _reading_verb(query: dict[str, str], name: str) -> str:
    if query.get("watch", "") in TRUE:
        return "watch"
    return "get" if name else "list"


def _check_served(call: ApiRequest) -> None:
    if call.subresource == "finalize" and call.resource.qualified != "namespaces":
        raise not_served()
    if call.subresource == "status" and not call.resource.status:
        raise not_served()
    if call.verb not in call.resource.verbs:
        raise method_not_allowed()


async def _body(request: web.Request) -> Any:
    """The body from JSON or YAML; None when there is none."""
    if not request.can_read_body:
        return None
    if "protobuf" in request.content_type:  # before it is taken for text
        raise unsupported_media_type()
    text = await request.text()
    if not text:
        return None
    try:
        return json.loads(text)
    except ValueError:
        if "yaml" not in request.content_type:
            raise bad_request("the body is not JSON") from None
    try:
        (document,) = yamljson.documents(text)
    except (yaml.YAMLError, ValueError) as error:
        raise bad_request(f"the body is not YAML: {error}") from error
    return document


def _form(request: web.Request) -> Representation:
    accepted = request.headers.get("Accept", "")
    if "as=Table" in accepted:
        return Tables(request.query.get("includeObject", "Metadata"))
    return MetadataOnly() if "as=PartialObjectMetadata" in accepted else FullObject()


def _json(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=body,
        status=status,
        content_type="application/json",
        headers={"Audit-Id": str(uuid.uuid4()), **(headers or {})},
    )
