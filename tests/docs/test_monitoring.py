"""The page about monitoring is about the metrics and dashboards that there are."""

from __future__ import annotations

import json
import re

import pytest

from tests.docs.pages import BLOCKS, ROOT, Block, page

DASHBOARDS = ROOT / "charts" / "dreambooth-operator" / "files" / "dashboards"
SERIES = re.compile(r"_(sum|count|bucket)$")


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "promql"], ids=str)
def test_queries_are_about_metrics_that_exist(block: Block) -> None:
    known = set(page("docs/metrics.md").codes)
    named = set(re.findall(r"dreambooth_\w+", block.text))
    assert named
    assert {SERIES.sub("", name) for name in named} - known == set()


def test_every_dashboard_is_named() -> None:
    titles = {json.loads(path.read_text())["title"] for path in DASHBOARDS.glob("*.json")}
    rows = re.findall(r"^\| (DreamBooth / \w+) \|", page("docs/monitoring.md").text, re.MULTILINE)
    assert set(rows) == titles
