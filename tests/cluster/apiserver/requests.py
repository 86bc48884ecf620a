"""A request, as the parts that answer it see it: no HTTP."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.cluster.apiserver.errors import bad_request
from tests.cluster.apiserver.resources import Json, Resource

TRUE = {"true", "1", "t", "T", "TRUE", "True"}


@dataclass
class ApiRequest:
    """One request for a resource."""

    verb: str
    """create, get, list, watch, update, patch, delete or deletecollection."""
    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    query: dict[str, str] = field(default_factory=dict)
    body: Any = None
    content_type: str = "application/json"
    user_agent: str = ""
    warnings: list[str] = field(default_factory=list)
    """Answered as Warning headers."""

    def flag(self, name: str) -> bool:
        return self.query.get(name, "") in TRUE

    def number(self, name: str) -> int:
        """A whole number from the query; 0 when it is absent."""
        text = self.query.get(name) or "0"
        if not text.isdigit():
            raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax')
        return int(text)

    @property
    def dry_run(self) -> bool:
        given = self.query.get("dryRun") or (
            self.body.get("dryRun") if self.verb.startswith("delete") and self.body else None
        )
        return bool(given)

    @property
    def manager(self) -> str:
        """The field manager: as asked for, else the program's name."""
        return self.query.get("fieldManager") or self.user_agent.partition("/")[0] or "unknown"

    @property
    def object(self) -> Json:
        if not isinstance(self.body, dict):
            raise bad_request("the request's body is not an object")
        return self.body
