"""`make bench`: the trainer against bare PyTorch, and the gain from its caches and batching.

Every figure is a ratio of two things measured in turn within this one run, so the machine's own
speed drops out. The model is tiny-sd at its own size; on a larger model, fixed costs per step
weigh less.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench import quality, ranks, steps, storage_faults


def main() -> int:
    """Measure everything; print one table. Returns 1 when a target is missed."""
    argparse.ArgumentParser(prog="tests.bench", description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = steps.StepBench(Path(folder))
        results = [
            ("trainer's step / bare PyTorch's", bench.trainer_against_bare(), 1.10),
            ("cached step / uncached", bench.cached_against_uncached(), None),
            ("one forward / two", bench.one_forward_against_two(), None),
            *ranks.measure(Path(folder)),
            *quality.measure(Path(folder)),
            *storage_faults.measure(Path(folder)),
        ]
    table = Table("ratio", "median", "lowest", "highest", "target")
    missed = 0
    for name, ratios, target in results:
        median = statistics.median(ratios)
        missed += target is not None and median > target
        goal = (
            ""
            if target is None
            else f"{'met' if median <= target else 'MISSED'}: at most {target:.2f}"
        )
        table.add_row(name, *(f"{r:.3f}" for r in (median, min(ratios), max(ratios))), goal)
    Console(width=110).print(table)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
