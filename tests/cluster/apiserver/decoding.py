"""From a request's body to an object of the right kind: its fields known, defaulted and valid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.cluster.apiserver import admission, defaults, merge, metadata, strategies
from tests.cluster.apiserver.audit import AuditLog
from tests.cluster.apiserver.errors import Cause, bad_request, invalid, not_typed, required
from tests.cluster.apiserver.fieldsets import Shape
from tests.cluster.apiserver.openapi_schemas import Fault, OpenApiSchemas
from tests.cluster.apiserver.requests import ApiRequest
from tests.cluster.apiserver.resources import DEFINITION, Json, Resource


class Decoder:
    """Decodes and checks objects by the schemas of one version."""

    def __init__(self, schemas: OpenApiSchemas, records: AuditLog) -> None:
        self.schemas = schemas
        self._records = records

    def shape(self, resource: Resource) -> Shape:
        """How objects of a resource are merged."""
        schema = resource.schema or self.schemas.of_resource(resource) or {}
        return Shape(schema, self.schemas.resolve)

    def typed(self, call: ApiRequest, content: Json) -> Json:
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
            faults = self.schemas.faults(content)
            unknown = [fault.path for fault in faults if fault.kind == "unknown"]
            wrong = [f".{one.path}: {one.message}" for one in faults if one.kind == "type"]
        if unknown or wrong:
            undeclared = [f".{path}: field not declared in schema" for path in unknown]
            raise not_typed(resource, content, wrong + undeclared)
        return self.decoded(call, content)

    def decoded(self, call: ApiRequest, content: Json) -> Json:
        """The object of the right kind, its unknown fields refused, warned of, or dropped."""
        resource = call.resource
        kind, version = content.get("kind"), content.get("apiVersion")
        if resource.custom and not kind:
            message = f"the object provided is unrecognized (must be of type {resource.kind}): "
            raise bad_request(f"{message}Object 'Kind' is missing")
        if (kind or version) and (kind, version) != (resource.kind, resource.api_version):
            raise bad_request(
                f'{kind} in version "{version}" cannot be handled as a {resource.kind}: '
                f"it is not a {resource.kind} of {resource.api_version}"
            )
        content = {"kind": resource.kind, "apiVersion": resource.api_version} | content
        content = admission.as_json(content)
        if resource.schema is not None:
            content, unknown = admission.pruned(resource.schema, content)
            unknown.sort()
        else:
            content = _without_nothing(content, lists=resource.kind != DEFINITION)
            unknown = self._decode_builtin(resource, content)
        self._complain(call, unknown)
        return content

    def _decode_builtin(self, resource: Resource, content: Json) -> list[str]:
        """Refuse values of a wrong type; drop unknown fields and return them."""
        faults = self.schemas.faults(content)
        wrong = [fault for fault in faults if fault.kind == "type"]
        if wrong:
            raise bad_request(
                f'{resource.kind} in version "{resource.version}" cannot be handled as a '
                f"{resource.kind}: {wrong[0].path} {wrong[0].message}"
            )
        unknown = [fault.path for fault in faults if fault.kind == "unknown"]
        for path in unknown:
            merge.remove_path(content, path)
        return unknown

    def _complain(self, call: ApiRequest, unknown: list[str]) -> None:
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
                self._records.refuse(call, self.schemas.version, Fault("unknown", path, ""))

    def defaulted(self, resource: Resource, content: Json) -> Json:
        """The object with the defaults of its kind; a built-in one is changed in place."""
        if resource.schema is not None:
            metadata_part = content.get("metadata")
            content = admission.with_defaults(resource.schema, content)
            return content | {"metadata": metadata_part}
        defaults.fill_in(resource, content)
        return content

    def validate(self, resource: Resource, content: Json, old: Json | None) -> None:
        """Raise 422 for what the schema, the rules or the resource's own checks refuse."""
        causes = list(metadata.faults(resource, content["metadata"]))
        if resource.schema is not None:
            causes = admission.faults(resource.schema, content, old, causes)
        else:
            causes += _required_fields(self.schemas.faults(content))
        if old is None:
            causes += strategies.faults(resource, content)
        elif old is not None:
            causes += strategies.update_faults(resource, old, content, self.schemas.version)
        if causes:
            raise invalid(resource, content["metadata"].get("name", ""), causes)


def _required_fields(faults: list[Fault]) -> Iterator[Cause]:
    for fault in faults:
        if fault.path.startswith("metadata."):
            continue  # ObjectMeta has checks of its own
        if fault.kind == "required":
            yield required(fault.path)
        elif fault.kind == "value":
            yield Cause(fault.path, "FieldValueNotSupported", f"Unsupported value: {fault.message}")


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
