"""The page about monitoring is about the metrics and dashboards that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.docs.pages import BLOCKS, ROOT, Block, page

DASHBOARDS = ROOT / "charts" / "dreambooth-operator" / "files" / "dashboards"
SERIES = re.compile(r"_(sum|count|bucket)$")


queries = pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "promql"], ids=str)


@queries
def test_queries_are_understood_by_prometheus(block: Block, tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    assert promtool, "install Prometheus: apt-get install prometheus"
    lines = block.text.splitlines()
    found = [line for line in lines if line and not line.startswith("#")]
    rules = [{"record": f"page:query{i}", "expr": query} for i, query in enumerate(found)]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "page", "rules": rules}]}))
    result = subprocess.run([promtool, "check", "rules", file], check=False, capture_output=True)
    assert result.returncode == 0, result.stderr.decode()


@queries
def test_queries_are_about_metrics_that_exist(block: Block) -> None:
    known = set(page("docs/metrics.md").codes)
    named = set(re.findall(r"dreambooth_\w+", block.text))
    assert named
    assert {SERIES.sub("", name) for name in named} - known == set()


def test_every_dashboard_is_named() -> None:
    titles = {json.loads(path.read_text())["title"] for path in DASHBOARDS.glob("*.json")}
    rows = re.findall(r"^\| (DreamBooth / \w+) \|", page("docs/monitoring.md").text, re.MULTILINE)
    assert set(rows) == titles
