"""Failures as the API server reports them: `Status` objects (meta.k8s.io/v1)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.cluster.apiserver.resources import Resource

MODIFIED = (
    "the object has been modified; please apply your changes to the latest version and try again"
)


@dataclass(frozen=True)
class Cause:
    """One field's fault: the path, the kind of fault (`FieldValueInvalid`, ...) and the words."""

    field: str
    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class ApiError(Exception):
    """A request that is refused; `status` is the body of the answer."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        details: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.headers = headers or {}
        self.status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            **({"reason": reason} if reason else {}),
            **({} if details is None else {"details": details}),
            "code": code,
        }


def success(code: int | None = None, details: dict[str, Any] | None = None) -> dict[str, Any]:
    """The body of an answer that has no object to show."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        **({} if details is None else {"details": details}),
        **({} if code is None else {"code": code}),
    }


def details_of(resource: Resource, name: str, uid: str = "") -> dict[str, Any]:
    group = {"group": resource.group} if resource.group else {}
    return {"name": name, **group, "kind": resource.plural, **({"uid": uid} if uid else {})}


def _about(resource: Resource | str, name: str) -> tuple[str, dict[str, Any]]:
    if isinstance(resource, str):
        return resource, {"name": name, "kind": resource}
    return resource.qualified, details_of(resource, name)


def not_served() -> ApiError:
    message = "the server could not find the requested resource"
    return ApiError(404, "NotFound", message, {})


def not_found(resource: Resource, name: str) -> ApiError:
    message = f'{resource.qualified} "{name}" not found'
    return ApiError(404, "NotFound", message, details_of(resource, name))


def already_exists(resource: Resource, name: str) -> ApiError:
    message = f'{resource.qualified} "{name}" already exists'
    return ApiError(409, "AlreadyExists", message, details_of(resource, name))


def conflict(resource: Resource | str, name: str, why: str = MODIFIED) -> ApiError:
    """409 about a resource, or about something else by its name."""
    qualified, details = _about(resource, name)
    message = f'Operation cannot be fulfilled on {qualified} "{name}": {why}'
    return ApiError(409, "Conflict", message, details)


def forbidden(
    resource: Resource | str, name: str, why: str, cause: Cause | None = None
) -> ApiError:
    """403 about a resource."""
    qualified, details = _about(resource, name)
    if cause:
        details["causes"] = [_cause(cause)]
    return ApiError(403, "Forbidden", f'{qualified} "{name}" is forbidden: {why}', details)


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def method_not_allowed() -> ApiError:
    message = "the server does not allow this method on the requested resource"
    return ApiError(405, "MethodNotAllowed", message, {})


def unsupported_media_type() -> ApiError:
    return ApiError(415, "UnsupportedMediaType", "415: Unsupported Media Type", {})


def expired(version: int, oldest: int) -> ApiError:
    return ApiError(410, "Expired", f"too old resource version: {version} ({oldest})")


def too_new(version: int, current: int) -> ApiError:
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    message = f"Timeout: Too large resource version: {version}, current: {current}"
    return ApiError(504, "Timeout", message, {"causes": [cause], "retryAfterSeconds": 1})


def manager_required() -> ApiError:
    """422 for an apply without a name for who applies."""
    cause = required("fieldManager", "is required for apply patch")
    message = f'PatchOptions.meta.k8s.io "" is invalid: {cause}'
    details = {"group": "meta.k8s.io", "kind": "PatchOptions", "causes": [_cause(cause)]}
    return ApiError(422, "Invalid", message, details)


def not_typed(resource: Resource, content: Any, faults: Sequence[str]) -> ApiError:
    """500, as the real server has it, for applied fields that do not fit the schema."""
    found = content.get("metadata") or {}
    place = f"{found.get('namespace', '')}/{found.get('name', '')}"
    version = resource.api_version if resource.group else f"/{resource.version}"
    head = f"failed to create typed patch object ({place}; {version}, Kind={resource.kind}): "
    words = faults[0] if len(faults) == 1 else "\n  ".join(["errors:", *sorted(faults)])
    return ApiError(500, "", head + words)


def version_required(resource: Resource, name: str) -> ApiError:
    """422 for an update that does not say which version it is of."""
    cause = bad_value("metadata.resourceVersion", 0, "must be specified for an update")
    details = {**details_of(resource, name), "causes": [_cause(cause)]}
    return ApiError(422, "Invalid", f'{resource.qualified} "{name}" is invalid: {cause}', details)


def invalid(resource: Resource, name: str, causes: Sequence[Cause]) -> ApiError:
    """422, in apimachinery's words: one cause in a line, several as a list in brackets."""
    lines = list(dict.fromkeys(str(cause) for cause in causes))
    text = lines[0] if len(lines) == 1 else f"[{', '.join(lines)}]"
    group = {"group": resource.group} if resource.group else {}
    details = {
        **({"name": name} if name else {}),
        **group,
        "kind": resource.kind,
        "causes": [_cause(cause) for cause in causes],
    }
    return ApiError(
        422, "Invalid", f'{resource.qualified_kind} "{name}" is invalid: {text}', details
    )


def _cause(cause: Cause) -> dict[str, str]:
    return {"reason": cause.reason, "message": cause.message, "field": cause.field}


def required(field: str, message: str = "") -> Cause:
    return Cause(field, "FieldValueRequired", f"Required value{': ' if message else ''}{message}")


def bad_value(field: str, value: Any, message: str) -> Cause:
    return Cause(field, "FieldValueInvalid", f"Invalid value: {go_value(value)}: {message}")


def not_allowed(field: str, message: str) -> Cause:
    return Cause(field, "FieldValueForbidden", f"Forbidden: {message}")


def not_supported(field: str, value: Any, supported: Sequence[str]) -> Cause:
    choices = ", ".join(f'"{choice}"' for choice in supported)
    message = f"Unsupported value: {go_value(value)}: supported values: {choices}"
    return Cause(field, "FieldValueNotSupported", message)


def go_value(value: Any) -> str:
    """A value as field errors print it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        escaped = escaped.replace("\t", "\\t")
        return f'"{escaped}"'
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    return json.dumps(value, separators=(",", ":"))
