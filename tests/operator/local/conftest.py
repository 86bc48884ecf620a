"""Pods that run a program of a test."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_operator.local.host import loopback_addresses, metrics_port, rendezvous_port
from dreambooth_operator.local.kubelet import NodeEnvironment, local_pods
from dreambooth_operator.local.pod import LocalPod
from dreambooth_operator.manifests.resources import attempt_objects

QUICKSTART = Path(__file__).parents[3] / "examples" / "quickstart.yaml"


@pytest.fixture
def make_pods(tmp_path: Path) -> Callable[..., list[LocalPod]]:
    """Pods of the quickstart that run a Python program in place of the trainer."""

    def make(
        program: str,
        *,
        nodes: int = 2,
        grace: int | None = None,
        overrides: dict[str, Any] | None = None,
        **env: str,
    ) -> list[LocalPod]:
        script = tmp_path / "program.py"
        script.write_text(program)
        document = yaml.safe_load(QUICKSTART.read_text())
        document["spec"]["runtime"] = {
            "nodes": nodes,
            "gpusPerNode": 0,
            "podOverrides": overrides or {},
        }
        document["spec"]["training"]["globalBatch"] = nodes
        job = DreamBoothJob.model_validate(document)
        objects = attempt_objects(job, 3, "unused")
        (container,) = objects[-1]["spec"]["template"]["spec"]["containers"]
        container["args"] = ["python", str(script), "/etc/dreambooth/job.yaml"]
        addresses = loopback_addresses(nodes, seed=str(tmp_path))
        pods = local_pods(
            objects,
            NodeEnvironment(
                folder=tmp_path / "run",
                addresses=addresses,
                rendezvous_port=rendezvous_port(job.spec.runtime),
                metrics_port=metrics_port(job.spec.runtime, addresses),
                environment={**os.environ, **env},
            ),
        )
        for pod in pods:
            pod.grace_seconds = grace if grace is not None else pod.grace_seconds
        return pods

    return make
