"""What the API server itself writes into ObjectMeta, and what it refuses there."""

from __future__ import annotations

import datetime as dt
import random
import re
import uuid
from collections.abc import Iterator

from tests.cluster.apiserver.errors import Cause, bad_value, not_allowed, required
from tests.cluster.apiserver.resources import Json, Resource

SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
SUBDOMAIN_MESSAGE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or "
    "'.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used "
    f"for validation is '{SUBDOMAIN.pattern}')"
)
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
LABEL_MESSAGE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and "
    "must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used "
    f"for validation is '{LABEL.pattern}')"
)
LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
LABEL_VALUE_MESSAGE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or "
    "'.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  "
    f"or '12345', regex used for validation is '{LABEL_VALUE.pattern}')"
)
NAME_PART_MESSAGE = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end "
    "with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for "
    "validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
STANDARD_FINALIZERS = {"kubernetes", "orphan", "foregroundDeletion"}
PATH_NAMED = {"roles", "rolebindings", "clusterroles", "clusterrolebindings"}
"""RBAC names may be any path segment."""

SUFFIX = "bcdfghjklmnpqrstvwxz2456789"
SYSTEM_FIELDS = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds")


def now() -> str:
    """The time as metav1.Time writes it."""
    return timestamp(dt.datetime.now(dt.UTC))


def timestamp(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def generated_name(prefix: str) -> str:
    return prefix[:58] + "".join(random.choices(SUFFIX, k=5))


def for_new(resource: Resource, metadata: Json, namespace: str) -> Json:
    """The metadata of a new object: its identity, the time, and no trace of another life."""
    kept = {key: value for key, value in metadata.items() if key not in SYSTEM_FIELDS}
    kept.pop("resourceVersion", None)
    kept.pop("generation", None)
    kept.pop("selfLink", None)
    if not kept.get("name") and kept.get("generateName"):
        kept["name"] = generated_name(kept["generateName"])
    return {
        **without_empty(kept),
        **({"namespace": namespace} if resource.namespaced else {}),
        "uid": str(uuid.uuid4()),
        "creationTimestamp": now(),
        **({"generation": 1} if resource.generation else {}),
    }


def for_update(old: Json, metadata: Json) -> Json:
    """The metadata of a new state: what only the server writes is as it was."""
    fixed = ("name", "namespace", "generateName", "generation", "resourceVersion", *SYSTEM_FIELDS)
    kept = {key: value for key, value in metadata.items() if key not in fixed}
    kept.pop("selfLink", None)
    return without_empty(kept) | {key: old[key] for key in fixed if key in old}


def without_empty(metadata: Json) -> Json:
    """Labels, owners and the like are left out where there are none."""
    return {key: value for key, value in metadata.items() if value not in (None, [], {})}


def faults(resource: Resource, metadata: Json) -> Iterator[Cause]:
    """What is wrong with an object's metadata."""
    name = metadata.get("name", "")
    if not name:
        yield required("metadata.name", "name or generateName is required")
    else:
        yield from _wrong_name(resource, name)
    for key, value in (metadata.get("labels") or {}).items():
        yield from label_faults("metadata.labels", key, value)
    yield from _wrong_owners(metadata.get("ownerReferences") or [])
    for index, finalizer in enumerate(metadata.get("finalizers") or []):
        yield from qualified_name_faults("metadata.finalizers", finalizer)
        if "/" not in finalizer and finalizer not in STANDARD_FINALIZERS and not resource.custom:
            message = "name is neither a standard finalizer name nor is it fully qualified"
            yield bad_value(f"metadata.finalizers[{index}]", finalizer, message)


def _wrong_name(resource: Resource, name: str) -> Iterator[Cause]:
    rule, longest, message = SUBDOMAIN, 253, SUBDOMAIN_MESSAGE
    if resource.qualified in ("services", "namespaces"):
        rule, longest, message = LABEL, 63, LABEL_MESSAGE
    if resource.plural in PATH_NAMED:
        return
    if len(name) > longest:
        yield bad_value("metadata.name", name, f"must be no more than {longest} bytes")
    if not rule.fullmatch(name):
        yield bad_value("metadata.name", name, message)


def label_faults(field: str, key: str, value: str) -> Iterator[Cause]:
    yield from qualified_name_faults(field, key)
    if len(value) > 63:
        yield bad_value(field, value, "must be no more than 63 bytes")
    if not LABEL_VALUE.fullmatch(value):
        yield bad_value(field, value, LABEL_VALUE_MESSAGE)


def qualified_name_faults(field: str, name: str) -> Iterator[Cause]:
    """A label's key or a finalizer: an optional DNS prefix and a name of at most 63 characters."""
    prefix, _, last = name.rpartition("/")
    if prefix and not SUBDOMAIN.fullmatch(prefix):
        yield bad_value(field, name, f"prefix part {SUBDOMAIN_MESSAGE}")
    if not last or len(last) > 63 or not LABEL_VALUE.fullmatch(last):
        yield bad_value(field, name, NAME_PART_MESSAGE)


def _wrong_owners(owners: list[Json]) -> Iterator[Cause]:
    for owner in owners:
        for key in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(key):
                yield bad_value(f"metadata.ownerReferences.{key}", "", "must not be empty")
    controllers = [owner for owner in owners if owner.get("controller")]
    if len(controllers) > 1:
        one, other = (f"{owner['kind']}/{owner['name']}" for owner in controllers[:2])
        message = "Only one reference can have Controller set to true. Found "
        message += f'"true" in references for {one} and {other}'
        yield bad_value("metadata.ownerReferences", owners, message)


def update_faults(old: Json, new: Json) -> Iterator[Cause]:
    """What of the metadata an update may not change."""
    if old.get("deletionTimestamp"):
        added = set(new.get("finalizers") or []) - set(old.get("finalizers") or [])
        if added:
            message = "no new finalizers can be added if the object is being deleted"
            found = ", ".join(f'"{name}"' for name in sorted(added))
            text = f"{message}, found new finalizers []string{{{found}}}"
            yield not_allowed("metadata.finalizers", text)
