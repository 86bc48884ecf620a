"""Jobs of the scenarios: the quickstart, made small."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.cluster.client import Object
from tests.e2e.storage import Storage

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.yaml"


def small_job(
    storage: Storage, name: str = "mug", *, steps: int = 6, every: int = 3, nodes: int = 2
) -> Object:
    """A DreamBoothJob that trains tiny-sd within seconds; tests change what they need.

    The first job of a test session makes the class images, and the others share them.
    """
    job: Object = yaml.safe_load(QUICKSTART.read_text())
    job["metadata"] = {"name": name}
    spec = job["spec"]
    del spec["evaluation"]
    spec["storage"] = storage.spec
    spec["prior"] |= {"count": 2, "steps": 2}
    spec["training"] |= {"steps": steps, "globalBatch": 2}
    spec["samples"] = {"prompts": ["a photo of sks mug"], "count": 1, "steps": 1}
    spec["checkpoints"] = {"every": every}
    spec["runtime"] |= {
        "nodes": nodes,
        "terminationGracePeriodSeconds": 30,
        "restart": {"backoffSeconds": 1, "maxBackoffSeconds": 2},
    }
    return job


def training_job(storage: Storage, name: str = "mug") -> Object:
    """A job that trains for some seconds: long enough for something to happen meanwhile."""
    return small_job(storage, name, steps=40, every=10)


def endless_job(storage: Storage, name: str = "mug", *, nodes: int = 2) -> Object:
    """A job that trains until a test ends it, and saves only when it is asked to stop."""
    return small_job(storage, name, steps=100_000, every=100_000, nodes=nodes)
