"""What all Kubernetes objects have in common (meta/v1), as the operator reads it."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dreambooth_api.schema.base import KIND

Body = Mapping[str, Any]
"""An object as the API server sends it."""

LABEL_NUMBER = re.compile("[0-9]{1,6}")


@dataclass(frozen=True, slots=True)
class Key:
    """A DreamBoothJob's namespace and name (meta/v1 ObjectMeta)."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class ObjectId:
    """Which object a body is, and in which version (meta/v1 ObjectMeta)."""

    namespace: str
    name: str
    uid: str
    version: int
    """metadata.resourceVersion."""


def identify(body: Body) -> ObjectId | None:
    """Which object this is; None for JSON that is no object of the API server's."""
    try:
        meta = body["metadata"]
        namespace, name, uid = meta["namespace"], meta["name"], meta["uid"]
        version = int(meta["resourceVersion"])
    except (LookupError, TypeError, ValueError):
        return None
    if not all(isinstance(text, str) for text in (namespace, name, uid)):
        return None
    return ObjectId(namespace, name, uid, version)


def by_type(conditions: Iterable[Body]) -> dict[str, Body]:
    """Conditions by their type (status.conditions[].type)."""
    return {condition["type"]: condition for condition in conditions}


def controller_uid(meta: Body) -> str | None:
    """Uid of the controller among an object's owners (meta/v1 OwnerReference)."""
    owners = meta.get("ownerReferences", [])
    return next((str(owner["uid"]) for owner in owners if owner.get("controller")), None)


def controls(job_uid: str, meta: Body) -> bool:
    """Whether the DreamBoothJob with this uid controls the object with this metadata."""
    owners = meta.get("ownerReferences", [])
    return any(
        owner["kind"] == KIND and owner["uid"] == job_uid and owner.get("controller")
        for owner in owners
    )


def time_of(text: str | None) -> datetime | None:
    """Parse an optional time (meta/v1 Time or MicroTime).

    Raises:
        ValueError: It is no time, or has no time zone.
    """
    return required_time(text) if text else None


def required_time(text: str) -> datetime:
    """Parse the time of a field that every object has (meta/v1 Time).

    Raises:
        ValueError: It is no time, or has no time zone.
    """
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    return time


def is_true(condition: Body | None) -> bool:
    """Whether a condition is there and holds (meta/v1 Condition, status)."""
    return condition is not None and condition.get("status") == "True"


def label_number(text: str | None) -> int | None:
    """The number in a label, which its user may have set to any text."""
    return int(text) if text is not None and LABEL_NUMBER.fullmatch(text) else None
