"""What tests ask afterwards: who wrote what, and which objects a published schema refuses."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.cluster.apiserver.openapi_schemas import Fault, published
from tests.cluster.apiserver.requests import ApiRequest
from tests.cluster.apiserver.resources import Json

SUPPORTED = ("1.33", "1.37")
"""The oldest and the newest version that the operator supports."""


@dataclass(frozen=True)
class Violation:
    """An object of a built-in kind that a version's published schema refuses."""

    version: str
    resource: str
    name: str
    user_agent: str
    path: str
    message: str


@dataclass
class AuditLog:
    """Counts of requests, and the violations found in what was written."""

    requests: Counter[tuple[str, str, str, int]] = field(default_factory=Counter)
    """How often (verb, resource, user agent, status code) was asked for."""
    violations: list[Violation] = field(default_factory=list)
    checked: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How many objects of (resource, user agent) were checked against the schemas."""

    def count(self, call: ApiRequest, code: int) -> None:
        name = call.resource.qualified + (f"/{call.subresource}" if call.subresource else "")
        self.requests[call.verb, name, call.user_agent, code] += 1

    def check(self, call: ApiRequest, content: Json) -> None:
        """Check an object against every supported version's schema."""
        self.checked[call.resource.qualified, call.user_agent] += 1
        for version in SUPPORTED:
            for fault in published(version).faults(content):
                self.refuse(call, version, fault)

    def refuse(self, call: ApiRequest, version: str, fault: Fault) -> None:
        name = call.name or call.object.get("metadata", {}).get("name", "")
        self.violations.append(
            Violation(
                version,
                call.resource.qualified,
                name,
                call.user_agent,
                fault.path,
                fault.message or "is not a field",
            )
        )
