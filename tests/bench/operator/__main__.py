"""`make bench-operator`: what the operator costs an API server, and how fast it is, at 1,000 jobs.

Runs against the double of the API server, or against a real one with `KUBEBUILDER_ASSETS`. Every
target is a ratio, a count or a latency measured within this one run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.operator import life, load
from tests.bench.operator.usage import Writes, memory, writes_of
from tests.cluster.control_plane import ControlPlane, control_plane
from tests.cluster.kubectl import Kubectl
from tests.e2e.operator_process import Operator

CRD = Path(__file__).parents[3] / "crds" / "dreambooth.dev_dreamboothjobs.yaml"
IMAGE = "dreambooth-trainer:bench"
NAMESPACES = 10
IDLE_JOBS = 50
LIVES = 3
QUIET_SECONDS = 5.0


@dataclass(frozen=True)
class Row:
    """One measured figure."""

    name: str
    value: str
    target: str = ""
    met: bool | None = None


@contextmanager
def fresh_plane(folder: Path) -> Iterator[ControlPlane]:
    """A control plane of its own for each measurement, with the CRD."""
    with control_plane(folder) as plane:
        kubectl = Kubectl(plane.kubeconfig)
        kubectl("apply", "--server-side", "-f", str(CRD))
        kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", str(CRD))
        for index in range(NAMESPACES):
            kubectl.create_namespace(f"team-{index}")
        yield plane


def measure(folder: Path, jobs: int) -> list[Row]:
    """All figures."""
    with fresh_plane(folder / "bare") as plane:
        bare = load.bare_loop(plane.kubeconfig, jobs, NAMESPACES, IMAGE)
    with fresh_plane(folder / "operator") as plane:
        operator = Operator(plane.kubeconfig, folder, IMAGE)
        operator.start()
        try:
            return [*_with_operator(plane, operator, jobs, bare)]
        finally:
            operator.stop()


def _with_operator(
    plane: ControlPlane, operator: Operator, jobs: int, bare: float
) -> Iterator[Row]:
    per_life = life.writes_per_life(plane.kubeconfig, operator, LIVES)
    load.settle(operator, QUIET_SECONDS)
    before = memory(operator.pid)
    latencies = load.idle_latencies(plane.kubeconfig, IDLE_JOBS, NAMESPACES)
    rate = load.operator_rate(plane.kubeconfig, jobs, NAMESPACES)
    load.settle(operator, QUIET_SECONDS)
    after = memory(operator.pid)
    operator.restart()
    load.settle(operator, QUIET_SECONDS)
    again = writes_of(operator.metrics())
    p50, p99 = (statistics.quantiles(latencies, n=100)[q] for q in (49, 98))
    yield Row("bare loop: jobs/s", f"{bare:.1f}")
    yield Row("operator: jobs/s", f"{rate:.1f}")
    yield _judged("operator / bare loop", rate / bare, "at least 0.80", rate / bare >= 0.8)
    yield Row("CR to Job when idle, p50", f"{p50 * 1000:.0f} ms")
    yield _judged("CR to Job when idle, p99 in s", p99, "at most 1", p99 <= 1)
    yield Row("API writes over a job's life", _listed(per_life, LIVES))
    yield _judged("writes after a restart", again.total(), "0", again.total() == 0)
    grown = (after.peak - before.now) / 1e6
    yield Row("memory with 0 jobs", f"{before.now / 1e6:.0f} MB")
    yield _judged(f"more at the peak with {jobs} jobs, in MB", grown, "at most 100", grown <= 100)


def _judged(name: str, value: float, target: str, met: bool) -> Row:
    return Row(name, f"{value:.2f}", target, met)


def _listed(writes: Writes, lives: int) -> str:
    each = {what: count / lives for what, count in sorted(writes.items())}
    lines = [f"{count:.1f} {what}" for what, count in each.items()]
    return "\n".join([f"{sum(each.values()):.1f} in all", *lines])


def main() -> int:
    """Measure and print; returns 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    jobs = parser.parse_args().jobs
    with tempfile.TemporaryDirectory(prefix="bench-operator-") as folder:
        rows = measure(Path(folder), jobs)
    table = Table("figure", "value", "target", "", show_lines=True)
    for row in rows:
        verdict = {True: "met", False: "MISSED", None: ""}[row.met]
        table.add_row(row.name, row.value, row.target, verdict)
    Console(width=110).print(table)
    return int(any(row.met is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
