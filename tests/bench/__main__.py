"""`make bench`: the trainer against bare PyTorch, and the gain from its caches and batching.

Every figure is a ratio of two things measured in turn within this one run, so the machine's own
speed drops out. The model is tiny-sd at its own size; on a larger model, fixed costs per step
weigh less.
"""

import sys

from tests.bench import quality, ranks, serving, steps, storage_faults
from tests.bench.report import Measurement, main

MEASUREMENTS: dict[str, Measurement] = {
    "trainer": steps.trainer_against_bare,
    "cache": steps.cached_against_uncached,
    "forward": steps.one_forward_against_two,
    "ranks": ranks.measure,
    "quality": quality.measure,
    "serving": serving.served_against_bare,
    "storage-faults": storage_faults.measure,
}

if __name__ == "__main__":
    sys.exit(main(MEASUREMENTS, __doc__))
