"""Discovery: which groups, versions and resources are served; and what OpenAPI kubectl needs."""

from __future__ import annotations

import re

from tests.cluster.apiserver.requests import ApiRequest
from tests.cluster.apiserver.resources import Json, Registry, Resource


def core_versions() -> Json:
    """GET /api."""
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def group_list(registry: Registry) -> Json:
    """GET /apis."""
    names = dict.fromkeys(one.group for one in registry if one.group)
    return {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [_group(registry, name) for name in names],
    }


def group(registry: Registry, name: str) -> Json | None:
    """GET /apis/GROUP; None for a group that is not served."""
    if not any(one.group == name for one in registry):
        return None
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(registry, name)}


def _group(registry: Registry, name: str) -> Json:
    found = dict.fromkeys(one.version for one in registry if one.group == name)
    versions = [{"groupVersion": f"{name}/{version}", "version": version} for version in found]
    return {"name": name, "versions": versions, "preferredVersion": versions[0]}


def resource_list(registry: Registry, group_name: str, version: str) -> Json | None:
    """GET /api/v1 and /apis/GROUP/VERSION; None for a version that is not served."""
    served = [one for one in registry if (one.group, one.version) == (group_name, version)]
    if not served:
        return None
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": served[0].api_version,
        "resources": [entry for one in served for entry in _entries(one)],
    }


def _entries(resource: Resource) -> list[Json]:
    entry: Json = {
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    return [entry, *(_subresource(resource, *found) for found in subresources(resource))]


def subresources(resource: Resource) -> list[tuple[str, str, list[str]]]:
    """Name, kind and verbs of each subresource."""
    found = [("status", resource.kind, ["get", "patch", "update"])] if resource.status else []
    verbs = {"log": ["get"]}
    found += [(n, kind, verbs.get(n, ["create"])) for n, kind in resource.subresources.items()]
    return found


def _subresource(resource: Resource, name: str, kind: str, verbs: list[str]) -> Json:
    origin = {"group": "policy", "version": "v1"} if kind == "Eviction" else {}
    return {
        "name": f"{resource.plural}/{name}",
        "singularName": "",
        "namespaced": resource.namespaced,
        **origin,
        "kind": kind,
        "verbs": verbs,
    }


def openapi_index(registry: Registry) -> Json:
    """GET /openapi/v3: where each group and version is described."""
    paths = {_root(one): {"serverRelativeURL": f"/openapi/v3/{_root(one)}"} for one in registry}
    return {"paths": paths}


def _root(resource: Resource) -> str:
    return f"apis/{resource.api_version}" if resource.group else "api/v1"


def openapi(registry: Registry, root: str) -> Json | None:
    """GET /openapi/v3/apis/GROUP/VERSION: just that the server validates fields by itself.

    kubectl then leaves validation to the server, and builds strategic merge patches from the types
    that it was compiled with. There are no schemas: `kubectl explain` does not work.
    """
    served = [one for one in registry if _root(one) == root]
    if not served:
        return None
    paths = {
        f"/{root}/{'namespaces/{namespace}/' if one.namespaced else ''}{one.plural}/{{name}}": {
            "patch": _patch_operation(one)
        }
        for one in served
        if "patch" in one.verbs
    }
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": paths,
        "components": {"schemas": {}},
    }


def _patch_operation(resource: Resource) -> Json:
    names = ("dryRun", "fieldManager", "fieldValidation", "force")
    return {
        "operationId": re.sub(r"\W", "", f"patch{resource.qualified_kind}"),
        "parameters": [
            {"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}}
            for name in names
        ],
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": "patch",
        "x-kubernetes-group-version-kind": {
            "group": resource.group,
            "version": resource.version,
            "kind": resource.kind,
        },
    }


def access_review(call: ApiRequest) -> Json:
    """SelfSubjectAccessReview: all is allowed."""
    head = {"kind": call.resource.kind, "apiVersion": call.resource.api_version, "metadata": {}}
    return {**head, **call.object, "status": {"allowed": True}}
