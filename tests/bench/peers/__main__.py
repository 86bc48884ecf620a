"""`make bench-peers DIFFUSERS=checkout`: the trainer against diffusers' own DreamBooth scripts.

Every figure is a ratio of medians within one run, with the same tiny model on the CPU. A script
that cannot run here, as it lacks a package, is reported with its reason.
"""

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench.peers.families import PEERS
from tests.bench.peers.measure import compare
from tests.bench.report import Measurement, main

MEASUREMENTS: dict[str, Any] = {}
"""None without a checkout."""


def measurements(checkout: Path) -> dict[str, Measurement]:
    """A measurement for each family that has a script."""
    scripts = checkout / "examples" / "dreambooth"
    return {name: partial(compare, peer, scripts) for name, peer in PEERS.items()}


if __name__ == "__main__":
    if "DIFFUSERS" not in os.environ:
        sys.exit("DIFFUSERS is required: a checkout of diffusers, for its examples/dreambooth")
    sys.exit(main(measurements(Path(os.environ["DIFFUSERS"])), __doc__))
