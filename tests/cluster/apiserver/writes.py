"""Create, update, patch: from a request's body to a stored object."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from tests.cluster.apiserver import admission, apply, defaults, managed, merge, metadata, strategies
from tests.cluster.apiserver.calls import Call
from tests.cluster.apiserver.deletion import Deleter, is_held
from tests.cluster.apiserver.errors import (
    ApiError,
    Cause,
    already_exists,
    bad_request,
    conflict,
    forbidden,
    go_value,
    invalid,
    manager_required,
    not_found,
    not_typed,
    required,
    unsupported_media_type,
    version_required,
)
from tests.cluster.apiserver.fieldsets import Shape
from tests.cluster.apiserver.published import Fault, PublishedSchemas
from tests.cluster.apiserver.records import Records
from tests.cluster.apiserver.resources import Json, Registry, Resource
from tests.cluster.apiserver.store import Store

DEFINITION = "CustomResourceDefinition"


class Writer:
    """Admits and stores objects."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        schemas: PublishedSchemas,
        records: Records,
        deleter: Deleter,
    ) -> None:
        self._store = store
        self._registry = registry
        self._schemas = schemas
        self._records = records
        self._deleter = deleter

    def create(self, call: Call) -> Json:
        """Store a new object; raises 409 when its name is taken."""
        resource = call.resource
        content = self._decoded(call, deepcopy(call.object))
        self._check_namespace(call, content)
        given = content.get("metadata") or {}
        content["metadata"] = metadata.for_new(resource, given, call.namespace)
        name = content["metadata"].get("name", "")
        content = self._defaulted(resource, content)
        early = list(metadata.faults(resource, content["metadata"]))
        if early:
            raise invalid(resource, name, early)
        strategies.prepare_new(self._store, resource, content)
        self._validate(resource, content, None)
        if self._store.get(resource, call.namespace, name) is not None:
            raise already_exists(resource, name)
        shape = self._shape(resource)
        if call.content_type == merge.APPLY:
            content = apply.for_new(call, shape, content, call.object)
        else:
            content = managed.after_update(call, shape, {}, content)
        self._record(call, content)
        return self._put_new(call, content)

    def _put_new(self, call: Call, content: Json) -> Json:
        if call.dry_run:
            return content
        stored = self._store.put(call.resource, content)
        self._define(call.resource, stored)
        return stored

    def _define(self, resource: Resource, content: Json) -> None:
        if resource.kind == DEFINITION:
            self._registry.define(content)

    def update(self, call: Call) -> Json:
        """Replace an object (PUT)."""
        content = self._decoded(call, deepcopy(call.object))
        _check_name(call, content)
        old = self._existing(call)
        if call.resource.versioned and not content["metadata"].get("resourceVersion"):
            raise version_required(call.resource, call.name)
        return self._replace(call, old, content)

    def patch(self, call: Call) -> Json:
        """Change a part of an object, by any of the patch types; applying may create it."""
        if call.content_type == merge.APPLY:
            return self._apply(call)
        old = self._existing(call)
        if call.resource.custom and call.content_type == merge.STRATEGIC:
            message = "the body of the request was in an unknown format - accepted media types "
            accepted = ", ".join((merge.JSON, merge.MERGE, merge.APPLY))
            raise unsupported_media_type(f"{message}include: {accepted}")
        schema = self._schemas.of_resource(call.resource) or {}
        patched = merge.patched(call, schema, self._schemas, deepcopy(old))
        try:
            decoded = self._decoded(call, patched)
        except ApiError as error:
            raise _wrong_patch(error, patched) from error
        return self._replace(call, old, decoded)

    def _apply(self, call: Call) -> Json:
        """Server-side apply: create the object when there is none, else merge what is applied."""
        if not call.query.get("fieldManager"):
            raise manager_required()
        body = self._typed(call, deepcopy(call.object))
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
        merged = apply.merged(call, self._shape(call.resource), old, body)
        return self._replace(call, old, merged, body)

    def _existing(self, call: Call) -> Json:
        found = self._store.get(call.resource, call.namespace, call.name)
        if found is None:
            raise not_found(call.resource, call.name)
        return found

    def _replace(self, call: Call, old: Json, content: Json, applied: Json | None = None) -> Json:
        """Store a new state of an object: nothing is written when nothing changed."""
        resource = call.resource
        _check_name(call, content)
        _check_preconditions(resource, old, content["metadata"])
        content = self._defaulted(resource, content)
        new = strategies.merged_update(resource, old, content, call.subresource)
        shape = self._shape(resource)
        if applied is None:
            new = managed.after_update(call, shape, old, new)
        else:
            new = apply.after_apply(call, shape, old, new, applied)
        if managed.same(old, new):
            return old
        self._validate(resource, new, old)
        self._record(call, new)
        if call.dry_run:
            return new
        if "deletionTimestamp" in new["metadata"] and not is_held(new):
            self._deleter.remove(resource, new)
            return new
        stored = self._store.put(resource, new)
        self._define(resource, stored)
        return stored

    def _shape(self, resource: Resource) -> Shape:
        schema = resource.schema or self._schemas.of_resource(resource) or {}
        return Shape(schema, self._schemas.resolve)

    def _typed(self, call: Call, content: Json) -> Json:
        """An applied object, of the right kind and with known fields of the right types alone."""
        resource = call.resource
        if not content.get("kind") or not content.get("apiVersion"):
            raise bad_request("invalid object type: /, Kind=")
        if resource.schema is not None:
            unknown = admission.pruned(resource.schema, content)[1]
            wrong = [
                f".{cause.field}: {cause.message}"
                for cause in admission.wrong_values(resource.schema, content)
                if cause.reason == "FieldValueTypeInvalid"
            ]
        else:
            found = self._schemas.faults(content)
            unknown = [fault.path for fault in found if fault.kind == "unknown"]
            wrong = [f".{one.path}: {one.message}" for one in found if one.kind == "type"]
        if unknown or wrong:
            undeclared = [f".{path}: field not declared in schema" for path in unknown]
            raise not_typed(resource, content, wrong + undeclared)
        return self._decoded(call, content)

    def _decoded(self, call: Call, content: Json) -> Json:
        """The object of the right kind, its unknown fields refused, warned of, or dropped."""
        resource = call.resource
        kind, version = content.get("kind"), content.get("apiVersion")
        if (kind or version) and (kind, version) != (resource.kind, resource.api_version):
            raise bad_request(
                f'{kind} in version "{version}" cannot be handled as a {resource.kind}: '
                f"it is not a {resource.kind} of {resource.api_version}"
            )
        content = {"kind": resource.kind, "apiVersion": resource.api_version} | content
        content = admission.as_json(content)
        if resource.schema is not None:
            content, unknown = admission.pruned(resource.schema, content)
        else:
            content = _without_nothing(content, lists=resource.kind != DEFINITION)
            unknown = self._decode_builtin(resource, content)
        self._complain(call, unknown)
        return content

    def _decode_builtin(self, resource: Resource, content: Json) -> list[str]:
        """Refuse values of a wrong type; drop unknown fields and return them."""
        found = self._schemas.faults(content)
        wrong = [fault for fault in found if fault.kind == "type"]
        if wrong:
            raise bad_request(
                f'{resource.kind} in version "{resource.version}" cannot be handled as a '
                f"{resource.kind}: {wrong[0].path} {wrong[0].message}"
            )
        unknown = [fault.path for fault in found if fault.kind == "unknown"]
        for path in unknown:
            merge.remove_path(content, path)
        return unknown

    def _complain(self, call: Call, unknown: list[str]) -> None:
        how = call.query.get("fieldValidation", "Warn")
        words = [f'unknown field "{path}"' for path in unknown]
        if words and how == "Strict":
            kind, version = call.resource.kind, call.resource.version
            raise bad_request(
                f'{kind} in version "{version}" cannot be handled as a {kind}: '
                f"strict decoding error: {', '.join(words)}"
            )
        if how == "Warn":
            call.warnings.extend(words)
        for path in unknown:
            if not call.resource.custom:
                self._records.refuse(call, self._schemas.version, Fault("unknown", path, ""))

    def _defaulted(self, resource: Resource, content: Json) -> Json:
        if resource.schema is not None:
            metadata_part = content.get("metadata")
            content = admission.with_defaults(resource.schema, content)
            return content | {"metadata": metadata_part}
        defaults.fill_in(resource, content)
        return content

    def _check_namespace(self, call: Call, content: Json) -> None:
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
        found = self._store.get(namespaces, "", call.namespace)
        if found is None:
            raise not_found(namespaces, call.namespace)
        if "deletionTimestamp" in found["metadata"]:
            cause = Cause(
                "metadata.namespace",
                "NamespaceTerminating",
                f"namespace {call.namespace} is being terminated",
            )
            why = f"unable to create new content in namespace {call.namespace} because it is being "
            name = (content.get("metadata") or {}).get("name", "")
            raise forbidden(call.resource, name, f"{why}terminated", cause)

    def _validate(self, resource: Resource, content: Json, old: Json | None) -> None:
        """Raise 422 for what the schema, the rules or the resource's own checks refuse."""
        found: list[Cause] = []
        if resource.schema is not None:
            found += admission.faults(resource.schema, content, old)
        else:
            found += _required_fields(self._schemas.faults(content))
        if old is None:
            found += strategies.faults(resource, content)
        elif old is not None:
            found += strategies.update_faults(resource, old, content, self._schemas.version)
        if found:
            raise invalid(resource, content["metadata"]["name"], found)

    def _record(self, call: Call, content: Json) -> None:
        """Note what the published schemas of the supported versions say against an object."""
        if not call.resource.custom and call.subresource != "status":
            self._records.check(call, content)


def _wrong_patch(error: ApiError, content: Json) -> ApiError:
    """A patch that leads to a value of a wrong type is not the client's syntax, but invalid."""
    message = f'"" is invalid: patch: Invalid value: {go_value(go_value(content))}: {error}'
    return ApiError(422, "Invalid", message, {})


def _required_fields(faults: list[Fault]) -> Iterator[Cause]:
    for fault in faults:
        if fault.kind == "required":
            yield required(fault.path)
        elif fault.kind == "value":
            yield Cause(fault.path, "FieldValueNotSupported", f"Unsupported value: {fault.message}")


def _check_name(call: Call, content: Json) -> None:
    name = (content.get("metadata") or {}).get("name")
    if name != call.name:
        message = f"the name of the object ({name}) does not match the name on the URL"
        raise bad_request(f"{message} ({call.name})")


def _check_preconditions(resource: Resource, old: Json, given: Json) -> None:
    name = old["metadata"]["name"]
    uid, present = given.get("uid"), old["metadata"]["uid"]
    if uid and uid != present:
        why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {present}"
        raise conflict(resource, name, why)
    version = given.get("resourceVersion")
    if version and version != old["metadata"]["resourceVersion"]:
        raise conflict(resource, name)


def _without_nothing(value: Any, *, lists: bool) -> Any:
    """Go drops a null and, but in a schema's defaults, an empty list where it may be left out."""
    if isinstance(value, dict):
        return {
            key: _without_nothing(item, lists=lists)
            for key, item in value.items()
            if item is not None and not (lists and item == [])
        }
    if isinstance(value, list):
        return [_without_nothing(item, lists=lists) for item in value]
    return value
