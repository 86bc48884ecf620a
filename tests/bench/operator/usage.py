"""What the operator uses: memory, as the kernel counts it, and writes, as its own metrics do."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

Writes = Counter[str]
"""Requests that write, by verb and resource."""

READS = {"get", "watch"}


@dataclass(frozen=True)
class Memory:
    """Resident memory of a process in bytes."""

    now: int
    peak: int


def memory(pid: int) -> Memory:
    """VmRSS and VmHWM of proc(5)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    now, peak = (int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return Memory(now, peak)


def writes_of(metrics: str) -> Writes:
    """The writes that the operator's metrics tell of."""
    counted: Writes = Counter()
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            if sample.name != "dreambooth_operator_api_requests_total":
                continue
            if sample.labels["verb"] not in READS:
                what = f"{sample.labels['verb']} {sample.labels['resource']}"
                counted[what] += int(sample.value)
    return counted
