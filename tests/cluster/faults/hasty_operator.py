"""The operator with shorter waits than its own.

python -m tests.cluster.faults.hasty_operator MODULE:CONSTANT=SECONDS ... --settings FILE
"""

from __future__ import annotations

import importlib
import sys

from dreambooth_operator.controller import __main__ as operator


def hasten(wait: str) -> None:
    """Set a constant of a module of the controller."""
    target, _, seconds = wait.partition("=")
    module, _, constant = target.partition(":")
    owner = importlib.import_module(f"dreambooth_operator.controller.{module}")
    assert hasattr(owner, constant), wait
    setattr(owner, constant, float(seconds))


if __name__ == "__main__":
    while not sys.argv[1].startswith("--"):
        hasten(sys.argv.pop(1))
    operator.main()
