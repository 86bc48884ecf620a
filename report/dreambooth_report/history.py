"""The measurements of training as curves: history.jsonl, and the losses of evaluations."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from dreambooth_api.contract.message import MAX_STEP
from dreambooth_report.facts import Curve

POINTS = 300
"""Most points of a curve: more would be less than a pixel each."""
LARGEST = 1e100
"""Larger values, and those that are not finite, are left out: sums of them would overflow."""
SMOOTHING = 0.04
"""Share of the steps over which a curve is averaged."""


def parse(text: str) -> list[Mapping[str, Any]]:
    """The steps of history.jsonl; lines that are no JSON object with a step are left out."""
    steps: list[Mapping[str, Any]] = []
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):  # the latter for a line of brackets
            continue
        if isinstance(entry, dict) and _is_step(entry.get("step")):
            steps.append(entry)
    return steps


def curve(entries: Sequence[Mapping[str, Any]], name: str) -> Curve | None:
    """The values of a field over the steps; None where it has none that are finite."""
    pairs = [(e["step"], float(e[name])) for e in entries if _is_number(e.get(name))]
    if not pairs:
        return None
    smooth = smoothed([value for _, value in pairs], max(1, round(len(pairs) * SMOOTHING)))
    size = math.ceil(len(pairs) / POINTS)
    chunks = [slice(start, start + size) for start in range(0, len(pairs), size)]
    raw = [sum(value for _, value in pairs[each]) / len(pairs[each]) for each in chunks]
    ends = [min(each.stop, len(pairs)) - 1 for each in chunks]
    return Curve([pairs[i][0] for i in ends], [smooth[i] for i in ends], raw)


def validation_losses(evaluations: Sequence[str]) -> list[tuple[int, float]]:
    """Steps and validation losses of the files of `selection/`, by step."""
    losses: list[tuple[int, float]] = []
    for entry in (entry for text in evaluations for entry in parse(" ".join(text.split()))):
        scores = entry.get("scores")
        loss = scores.get("validationLoss") if isinstance(scores, dict) else None
        if isinstance(loss, int | float) and _is_number(loss):
            losses.append((entry["step"], float(loss)))
    return sorted(losses)


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Exponential averages over about `window` values, unbiased from the first on."""
    decay = 1 - 1 / window
    total = weight = 0.0
    averages = []
    for value in values:
        total, weight = total * decay + value, weight * decay + 1
        averages.append(total / weight)
    return averages


def _is_step(value: object) -> bool:
    return isinstance(value, int) and 0 <= value <= MAX_STEP


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and -LARGEST < value < LARGEST
