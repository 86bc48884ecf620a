"""Create, update, patch: an object is admitted, its owners noted, and stored."""

from __future__ import annotations

from copy import deepcopy

from tests.cluster.apiserver import apply, managed_fields, merge, metadata, strategies
from tests.cluster.apiserver.audit import AuditLog
from tests.cluster.apiserver.decoding import Decoder
from tests.cluster.apiserver.deletion import Deleter, is_held
from tests.cluster.apiserver.errors import (
    ApiError,
    Cause,
    already_exists,
    bad_request,
    bad_value,
    conflict,
    forbidden,
    go_value,
    invalid,
    manager_required,
    not_found,
    unsupported_media_type,
    version_required,
)
from tests.cluster.apiserver.requests import ApiRequest
from tests.cluster.apiserver.resources import DEFINITION, Json, Registry, Resource
from tests.cluster.apiserver.settings import Settings
from tests.cluster.apiserver.store import Store


class Writer:
    """Admits and stores objects."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        registry: Registry,
        decoder: Decoder,
        records: AuditLog,
        deleter: Deleter,
    ) -> None:
        self._settings = settings
        self._store = store
        self._registry = registry
        self._decoder = decoder
        self._records = records
        self._deleter = deleter

    def create(self, call: ApiRequest) -> Json:
        """Store a new object; raises 409 when its name is taken."""
        resource = call.resource
        content = self._decoder.decoded(call, deepcopy(call.object))
        self._check_namespace(call, content)
        given = content.get("metadata") or {}
        content["metadata"] = metadata.for_new(resource, given, call.namespace)
        name = content["metadata"].get("name", "")
        content = self._decoder.defaulted(resource, content)
        strategies.prepare_new(self._store, resource, content, self._settings)
        self._decoder.validate(resource, content, None)
        if self._store.get(resource, call.namespace, name) is not None:
            raise already_exists(resource, name)
        shape = self._decoder.shape(resource)
        if call.content_type == merge.APPLY:
            content = apply.for_new(call, shape, content, call.object)
        else:
            content = managed_fields.after_update(call, shape, {}, content)
        self._record(call, content)
        return self._put_new(call, content)

    def _put_new(self, call: ApiRequest, content: Json) -> Json:
        if call.dry_run:
            return content
        stored = self._store.put(call.resource, content)
        self._define(call.resource, stored)
        return stored

    def _define(self, resource: Resource, content: Json) -> None:
        if resource.kind == DEFINITION:
            self._registry.define(content)

    def update(self, call: ApiRequest) -> Json:
        """Replace an object (PUT)."""
        content = self._decoder.decoded(call, deepcopy(call.object))
        _check_name(call, content)
        old = self._existing(call)
        if call.resource.versioned and not content["metadata"].get("resourceVersion"):
            raise version_required(call.resource, call.name)
        return self._replace(call, old, content)

    def patch(self, call: ApiRequest) -> Json:
        """Change a part of an object, by any of the patch types; applying may create it."""
        if call.content_type not in merge.KNOWN:
            raise unsupported_media_type()
        if call.content_type == merge.APPLY:
            return self._apply(call)
        old = self._existing(call)
        if call.resource.custom and call.content_type == merge.STRATEGIC:
            message = "the body of the request was in an unknown format - accepted media types "
            accepted = ", ".join((merge.JSON, merge.MERGE, merge.APPLY))
            raise ApiError(415, "UnsupportedMediaType", f"{message}include: {accepted}")
        schema = self._decoder.schemas.of_resource(call.resource) or {}
        patched = merge.patched(call, schema, self._decoder.schemas, deepcopy(old))
        try:
            decoded = self._decoder.decoded(call, patched)
        except ApiError as error:
            raise _wrong_patch(error, patched) from error
        return self._replace(call, old, decoded)

    def _apply(self, call: ApiRequest) -> Json:
        """Server-side apply: create the object when there is none, else merge what is applied."""
        if not call.query.get("fieldManager"):
            raise manager_required()
        body = self._decoder.typed(call, deepcopy(call.object))
        body.setdefault("metadata", {}).setdefault("name", call.name)
        old = self._store.get(call.resource, call.namespace, call.name)
        if body["metadata"].get("managedFields"):
            raise bad_request("metadata.managedFields must be nil")
        if old is None:
            if uid := body["metadata"].get("uid"):
                why = f"uid mismatch: the provided object specified uid {uid}, and no existing "
                raise conflict(call.resource, call.name, f"{why}object was found")
            if call.subresource:
                raise not_found(call.resource, call.name)
            call.body = body
            return self.create(call)
        merged = apply.merged(call, self._decoder.shape(call.resource), old, body)
        return self._replace(call, old, merged, body)

    def _existing(self, call: ApiRequest) -> Json:
        stored = self._store.get(call.resource, call.namespace, call.name)
        if stored is None:
            raise not_found(call.resource, call.name)
        return stored

    def _replace(
        self, call: ApiRequest, old: Json, content: Json, applied: Json | None = None
    ) -> Json:
        """Store a new state of an object: nothing is written when nothing changed."""
        resource = call.resource
        _check_name(call, content)
        _check_preconditions(call, old, content["metadata"])
        content = self._decoder.defaulted(resource, content)
        new = strategies.merged_update(resource, old, content, call.subresource)
        shape = self._decoder.shape(resource)
        if applied is None:
            new = managed_fields.after_update(call, shape, old, new)
        else:
            new = apply.after_apply(call, shape, old, new, applied)
        if managed_fields.same(old, new):
            return old
        self._decoder.validate(resource, new, old)
        self._record(call, new)
        if call.dry_run:
            return new
        if "deletionTimestamp" in new["metadata"] and not is_held(new):
            self._deleter.remove(resource, new)
            return new
        stored = self._store.put(resource, new)
        self._define(resource, stored)
        return stored

    def _check_namespace(self, call: ApiRequest, content: Json) -> None:
        given = (content.get("metadata") or {}).get("namespace")
        if given and given != call.namespace:
            if not call.resource.namespaced:
                return
            raise bad_request(
                "the namespace of the provided object does not match the namespace sent on the "
                "request"
            )
        if not call.resource.namespaced:
            return
        namespaces = self._registry.find("", "v1", "namespaces")
        assert namespaces is not None
        namespace = self._store.get(namespaces, "", call.namespace)
        if namespace is None:
            raise not_found(namespaces, call.namespace)
        if "deletionTimestamp" in namespace["metadata"]:
            cause = Cause(
                "metadata.namespace",
                "NamespaceTerminating",
                f"namespace {call.namespace} is being terminated",
            )
            why = f"unable to create new content in namespace {call.namespace} because it is being "
            name = (content.get("metadata") or {}).get("name", "")
            raise forbidden(call.resource, name, f"{why}terminated", cause)

    def _record(self, call: ApiRequest, content: Json) -> None:
        """Note what the published schemas of the supported versions say against an object."""
        if not call.resource.custom and call.subresource != "status":
            self._records.check(call, content)


def _wrong_patch(error: ApiError, content: Json) -> ApiError:
    """A patch that leads to a value of a wrong type is not the client's syntax, but invalid."""
    message = f'"" is invalid: patch: Invalid value: {go_value(go_value(content))}: {error}'
    return ApiError(422, "Invalid", message, {})


def _check_name(call: ApiRequest, content: Json) -> None:
    name = (content.get("metadata") or {}).get("name")
    if name != call.name:
        message = f"the name of the object ({name}) does not match the name on the URL"
        raise bad_request(f"{message} ({call.name})")


def _check_preconditions(call: ApiRequest, old: Json, given: Json) -> None:
    resource, name = call.resource, old["metadata"]["name"]
    uid, present = given.get("uid"), old["metadata"]["uid"]
    if uid and uid != present:
        if call.content_type in merge.KNOWN:
            raise invalid(resource, name, [bad_value("metadata.uid", uid, "field is immutable")])
        why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {present}"
        raise conflict(resource, name, why)
    version = given.get("resourceVersion")
    if version and version != old["metadata"]["resourceVersion"]:
        raise conflict(resource, name)
