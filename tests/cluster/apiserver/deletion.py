"""Deletion: preconditions, grace, finalizers and propagation policies."""

from __future__ import annotations

import datetime as dt
from typing import Any

from tests.cluster.apiserver import metadata
from tests.cluster.apiserver.errors import conflict, details_of, not_found, success
from tests.cluster.apiserver.requests import ApiRequest
from tests.cluster.apiserver.resources import DEFINITION, Json, Registry, Resource
from tests.cluster.apiserver.store import Store

ANSWERED_WITH_OBJECT = {"pods", "services", "serviceaccounts"}
"""Deleting one of these answers with its last state, not with a Status."""
ORPHANS = (
    "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background "
    "to remove them or set propagationPolicy=Orphan to suppress this warning"
)


class Deleter:
    """Deletes objects as kube-apiserver does; the garbage collector is another program."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry

    def delete(self, call: ApiRequest) -> Json:
        """Delete one object; answers with a Status, or with the object that goes on for a while."""
        resource, name = call.resource, call.name
        stored = self._store.get(resource, call.namespace, name)
        if stored is None:
            raise not_found(resource, name)
        options = _options(call)
        _check_preconditions(resource, stored, options.get("preconditions") or {})
        marked = self._marked(call, stored, options)
        if call.dry_run:
            return marked
        left = self._write(resource, stored, marked)
        if left is not None:
            return left
        if resource.qualified == "pods":
            return marked
        if resource.qualified in ANSWERED_WITH_OBJECT:
            return stored
        return success(details=details_of(resource, name, stored["metadata"]["uid"]))

    def _marked(self, call: ApiRequest, stored: Json, options: Json) -> Json:
        """The object with the marks of its deletion."""
        old = stored["metadata"]
        grace = _grace(call.resource, stored, options.get("gracePeriodSeconds"))
        new = dict(old)
        if "deletionTimestamp" not in old and "generation" in old:
            new["generation"] = old["generation"] + 1
        if "deletionTimestamp" not in old or grace < old.get("deletionGracePeriodSeconds", 0):
            end = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=grace)
            new["deletionTimestamp"] = metadata.timestamp(end)
            new["deletionGracePeriodSeconds"] = grace
        finalizers = _finalizers(call, options, old.get("finalizers") or [])
        if finalizers:
            new["finalizers"] = finalizers
        else:
            new.pop("finalizers", None)
        return {**stored, "metadata": new}

    def _write(self, resource: Resource, stored: Json, marked: Json) -> Json | None:
        """Store the marks, or remove the object when nothing holds it; None when it is gone."""
        if resource.qualified == "namespaces":
            marked["status"] = {**marked.get("status", {}), "phase": "Terminating"}
            marked["metadata"].pop("deletionGracePeriodSeconds", None)
        if not is_held(marked):
            self.remove(resource, marked)
            return None
        if marked == stored:
            return stored
        return self._store.put(resource, marked)

    def remove(self, resource: Resource, content: Json) -> None:
        """Remove an object; with a definition, the objects that it defined and their watches."""
        self._store.remove(resource, content)
        if resource.kind == DEFINITION:
            for version in self._registry.custom(
                content["spec"]["group"], content["spec"]["names"]["plural"]
            )[:1]:
                for stored in self._store.all(version):
                    self._store.remove(version, stored.content)
                self._store.end(version)
            self._registry.forget(content)


def is_held(content: Json) -> bool:
    """Whether a deleted object has to wait: for its finalizers, or for its grace period.

    A namespace has finalizers in its spec too: the namespace controller empties it first.
    """
    meta = content["metadata"]
    inner = content.get("spec", {}).get("finalizers") if content["kind"] == "Namespace" else None
    graceful = meta.get("deletionGracePeriodSeconds", 0) > 0
    return bool(meta.get("finalizers") or inner or graceful)


def _options(call: ApiRequest) -> Json:
    """DeleteOptions: from the body, else from the query."""
    options: dict[str, Any] = dict(call.body or {})
    for name in ("propagationPolicy", "gracePeriodSeconds", "orphanDependents"):
        if name in call.query:
            text = call.query[name]
            options[name] = int(text) if name == "gracePeriodSeconds" else text
    return options


def _check_preconditions(resource: Resource, stored: Json, wanted: Json) -> None:
    ends = {
        "UID": "The object might have been deleted and then recreated",
        "ResourceVersion": "The object might have been modified",
    }
    for key, label in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
        given, present = wanted.get(key), stored["metadata"][key]
        if given and given != present:
            why = f"the {label} in the precondition ({given}) does not match the {label} in record "
            name = stored["metadata"]["name"]
            raise conflict(resource.qualified_kind, name, f"{why}({present}). {ends[label]}")


def _grace(resource: Resource, stored: Json, given: int | None) -> int:
    """Only pods are given grace, and only those that a node runs."""
    if resource.qualified != "pods":
        return 0
    ended = stored.get("status", {}).get("phase") in ("Succeeded", "Failed")
    if not stored["spec"].get("nodeName") or ended:
        return 0
    return stored["spec"].get("terminationGracePeriodSeconds", 30) if given is None else given


def _finalizers(call: ApiRequest, options: Json, present: list[str]) -> list[str]:
    """The finalizers that the propagation policy asks the garbage collector to act on."""
    policy = options.get("propagationPolicy")
    if options.get("orphanDependents") in (True, "true"):
        policy = "Orphan"
    if policy is None and call.resource.qualified == "jobs.batch":
        call.warnings.append(ORPHANS)
        policy = "Orphan"
    kept = [name for name in present if name not in ("orphan", "foregroundDeletion")]
    if policy is None:
        return list(present)
    return kept + {"Orphan": ["orphan"], "Foreground": ["foregroundDeletion"]}.get(policy, [])
