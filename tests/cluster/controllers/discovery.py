"""Which kinds the API server has."""

from tests.cluster.client import ApiError, Client, Object
from tests.cluster.controllers.resource import Resource

NEEDED_VERBS = {"list", "watch", "delete"}


async def discover(client: Client) -> tuple[list[Resource], dict[tuple[str, str], Resource]]:
    """The kinds that can be followed (each once, events left out), and all by apiVersion and kind.

    A group that does not answer is left out: its server may be down.
    """
    groups = (await client.get("apis"))["groups"]
    versions = [v["groupVersion"] for group in groups for v in _preferred_first(group)]
    followed: dict[tuple[str, str], Resource] = {}
    by_kind: dict[tuple[str, str], Resource] = {}
    for path, version in [("api/v1", "v1"), *((f"apis/{v}", v) for v in versions)]:
        try:
            served = (await client.get(path))["resources"]
        except ApiError:
            continue
        for entry in served:
            if "/" in entry["name"]:
                continue
            group, _, number = version.rpartition("/")
            kind, plural = entry["kind"], entry["name"]
            resource = Resource(group, number, plural, kind, entry["namespaced"])
            by_kind[version, kind] = resource
            if set(entry["verbs"]) >= NEEDED_VERBS and plural != "events":
                followed.setdefault((group, plural), resource)
    return list(followed.values()), by_kind


def _preferred_first(group: Object) -> list[Object]:
    preferred = group["preferredVersion"]
    return [preferred, *(v for v in group["versions"] if v != preferred)]
