"""`make bench-operator`: what the operator costs an API server, and how fast it is, at 1,000 jobs.

Runs against the double of the API server, or against a real one with `KUBEBUILDER_ASSETS`. Every
target is a ratio, a count or a latency measured within this one run.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.operator import life, load
from tests.bench.operator.usage import Writes, memory, writes_of
from tests.bench.report import Measurement, Row, main
from tests.cluster.control_plane import ControlPlane, control_plane
from tests.cluster.kubectl import Kubectl
from tests.e2e.operator_process import Operator

CRD = Path(__file__).parents[3] / "crds" / "dreambooth.dev_dreamboothjobs.yaml"
IMAGE = "dreambooth-trainer:bench"
NAMESPACES = 10


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    jobs: int = 1000
    idle_jobs: int = 50
    lives: int = 3
    quiet_seconds: float = 5.0


SHORT = Sizes(jobs=10, idle_jobs=2, lives=1, quiet_seconds=0.6)


@contextmanager
def fresh_plane(folder: Path) -> Iterator[ControlPlane]:
    """A control plane of its own for each measurement, with the CRD."""
    with control_plane(folder) as plane:
        kubectl = Kubectl(plane.kubeconfig)
        kubectl.apply_definition(CRD)
        for index in range(NAMESPACES):
            kubectl.create_namespace(f"team-{index}")
        yield plane


def measure(folder: Path, short: bool) -> Iterator[Row]:
    """All figures: each needs the ones before it."""
    sizes = SHORT if short else Sizes()
    with fresh_plane(folder / "bare") as plane:
        bare = load.bare_loop(plane.kubeconfig, sizes.jobs, NAMESPACES, IMAGE)
    yield Row("bare loop: jobs/s", f"{bare:.1f}")
    with fresh_plane(folder / "operator") as plane:
        operator = Operator(plane.kubeconfig, folder, IMAGE)
        operator.start()
        try:
            yield from _with_operator(plane.kubeconfig, operator, sizes, bare)
        finally:
            operator.stop()


def _with_operator(
    kubeconfig: Path, operator: Operator, sizes: Sizes, bare: float
) -> Iterator[Row]:
    per_life = life.writes_per_life(kubeconfig, operator, sizes.lives)
    yield Row("API writes over a job's life", _listed(per_life, sizes.lives))
    load.settle(operator, sizes.quiet_seconds)
    before = memory(operator.pid)
    yield Row("memory with 0 jobs", f"{before.now / 1e6:.0f} MB")
    latencies = load.idle_latencies(kubeconfig, sizes.idle_jobs, NAMESPACES)
    p50, p99 = (statistics.quantiles(latencies, n=100)[q] for q in (49, 98))
    yield Row("CR to Job when idle, p50", f"{p50 * 1000:.0f} ms")
    yield _judged("CR to Job when idle, p99 in s", p99, "at most 1", p99 <= 1)
    rate = load.operator_rate(kubeconfig, sizes.jobs, NAMESPACES)
    yield Row("operator: jobs/s", f"{rate:.1f}")
    yield _judged("operator / bare loop", rate / bare, "at least 0.80", rate / bare >= 0.8)
    load.settle(operator, sizes.quiet_seconds)
    grown, most = (memory(operator.pid).peak - before.now) / 1e6, "at most 100"
    yield _judged(f"more at the peak with {sizes.jobs} jobs, in MB", grown, most, grown <= 100)
    operator.restart()
    load.settle(operator, sizes.quiet_seconds)
    again = writes_of(operator.metrics()).total()
    yield _judged("writes after a restart", again, "0", again == 0)


def _judged(name: str, value: float, target: str, met: bool) -> Row:
    return Row(name, f"{value:.2f}", target, met)


def _listed(writes: Writes, lives: int) -> str:
    each = {what: count / lives for what, count in sorted(writes.items())}
    lines = [f"{count:.1f} {what}" for what, count in each.items()]
    return "\n".join([f"{sum(each.values()):.1f} in all", *lines])


MEASUREMENTS: dict[str, Measurement] = {"operator": measure}

if __name__ == "__main__":
    sys.exit(main(MEASUREMENTS, __doc__))
