"""The page about monitoring names the metrics that there are."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from prometheus_client.registry import CollectorRegistry

from dreambooth_operator.controller.metrics import Metrics as OperatorMetrics
from dreambooth_operator.controller.metrics import Snapshot
from dreambooth_trainer.metrics import Metrics as TrainerMetrics
from tests.docs.pages import BLOCKS, page

ON_GPUS = {"gpu_memory_allocated_bytes", "gpu_memory_peak_bytes"}
"""Metrics of the trainer that a machine without GPUs does not have."""


def exposed(registry: CollectorRegistry, prefix: str) -> set[str]:
    """Names without their prefix, as a user writes them."""
    found = set()
    for family in registry.collect():
        if family.name.startswith(prefix):
            name = family.name.removeprefix(prefix)
            found.add(f"{name}_total" if family.type == "counter" else name)
    return found


def trainer() -> set[str]:
    labels = {"namespace": "n", "job": "j", "attempt": "0", "rank": "0"}
    return exposed(TrainerMetrics(labels).registry, "dreambooth_trainer_") | ON_GPUS


def operator() -> set[str]:
    metrics = OperatorMetrics()
    metrics.show(lambda: Snapshot(Counter(), 0, 0.0, {"pods": 0.0}, 0.0))
    return exposed(metrics.registry, "dreambooth_operator_")


def listed(part: str) -> set[str]:
    """Metrics in the table behind a marker of the page."""
    table = page("docs/monitoring.md").text.partition(f"<!-- metrics: {part} -->")[2]
    rows = re.findall(r"^\| (`.*`) \|", table.partition("\n## ")[0], re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_every_metric_of_the_trainer_is_listed_and_no_other() -> None:
    assert listed("trainer") == trainer()


def test_every_metric_of_the_operator_is_listed_and_no_other() -> None:
    assert listed("operator") == operator()


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "promql"], ids=str)
def test_queries_are_about_metrics_that_exist(block: object) -> None:
    known = {f"dreambooth_trainer_{name}" for name in trainer()}
    known |= {f"dreambooth_operator_{name}" for name in operator()}
    named = set(re.findall(r"dreambooth_\w+", getattr(block, "text", "")))
    assert named
    assert {re.sub(r"_(sum|count|bucket)$", "", name) for name in named} - known == set()
