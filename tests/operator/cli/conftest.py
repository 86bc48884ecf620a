"""A job and a fake trainer for the command line."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.operator.cli.bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A job that needs no server: everything is in folders."""
    job = {
        "apiVersion": "dreambooth.dev/v1alpha1",
        "kind": "DreamBoothJob",
        "metadata": {"name": "mug"},
        "spec": {
            "model": {"source": "/models/tiny"},
            "subjects": [
                {"identifier": "sks", "classNoun": "mug", "images": f"file://{tmp_path}/images"}
            ],
            "output": f"file://{tmp_path}/out",
            "runtime": {
                "nodes": 2,
                "gpusPerNode": 0,
                "restart": {"maxFailures": 2, "backoffSeconds": 1, "maxBackoffSeconds": 1},
            },
        },
    }
    bench = Bench(tmp_path, job)
    yield bench
    for process in bench.processes:
        process.kill()
        process.communicate()
