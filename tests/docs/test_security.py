"""What the page about security promises of rights is what the operator asks for."""

from __future__ import annotations

import re

from dreambooth_operator.controller.app import permissions
from dreambooth_trainer.data.decode import MAX_PIXELS
from tests.docs.pages import page

PLURALS = {
    "dreamboothjobs": "DreamBoothJobs",
    "dreamboothjobs/status": "DreamBoothJobs, status",
    "jobs": "Jobs",
    "services": "Services",
    "configmaps": "ConfigMaps",
    "pods": "Pods",
    "events": "Events",
    "leases": "Leases, in its own namespace",
}


def test_table_of_rights_is_complete() -> None:
    text = page("docs/security.md").text.partition("## What the pods")[0]
    rows = re.findall(r"^\| ([A-Z][^|]+) \| ([a-z][^|]+) \|", text, re.MULTILINE)
    listed = [(objects, set(verbs.split(", "))) for objects, verbs in rows]
    granted = []
    for rule in [*permissions.rules(), *permissions.lease_rules()]:
        granted += [(PLURALS[name], set(rule["verbs"])) for name in rule["resources"]]
    split = [(name, verbs) for objects, verbs in listed for name in _each(objects)]
    assert sorted(split, key=str) == sorted(granted, key=str)


def _each(objects: str) -> list[str]:
    """`Services, ConfigMaps` are two, `DreamBoothJobs, status` is one."""
    return [objects] if objects in PLURALS.values() else objects.split(", ")


def test_limit_of_pictures_is_the_decoders() -> None:
    assert f"{MAX_PIXELS // 10**6} million pixels" in page("docs/security.md").text
