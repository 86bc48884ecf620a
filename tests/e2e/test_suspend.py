"""A job is suspended, then resumed with fewer nodes."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.cluster.kubectl import KubectlError
from tests.e2e.attempts import starts, training_pods
from tests.e2e.cluster import Cluster
from tests.e2e.finished import Finished
from tests.e2e.jobs import training_job
from tests.e2e.operator_process import Operator

UNET = "unet/diffusion_pytorch_model.safetensors"
SUSPEND_FIRST = r"only while the job is suspended; set spec\.suspend to true first"


def test_a_suspended_job_goes_on_where_it_was_on_fewer_nodes(
    cluster: Cluster, operator: Operator, uninterrupted: Finished
) -> None:
    job = training_job(cluster.storage)
    job["spec"]["checkpoints"] = {"every": 1000}  # none before the end, but when asked to stop
    cluster.apply(job)
    running = cluster.wait_step("mug", 1)
    with pytest.raises(KubectlError, match=SUSPEND_FIRST):
        cluster.patch("mug", {"runtime": {"nodes": 1}})

    cluster.suspend("mug")
    stopped = cluster.wait_phase("mug", "Suspended")
    assert training_pods(cluster, "mug") == {}
    step = stopped["status"]["lastCheckpoint"]["step"]
    assert running["status"]["progress"]["step"] <= step < 40
    assert cluster.storage.checkpoints(cluster.run("mug")) == [step]

    cluster.patch("mug", {"runtime": {"nodes": 1}, "suspend": False})
    status = cluster.wait_phase("mug", "Succeeded")["status"]
    assert [attempt["outcome"] for attempt in status["attempts"]] == ["Suspended", "Succeeded"]
    assert not any(status["counters"].values())
    assert starts(cluster, "mug") == [(2, None), (1, step)]
    reasons = Counter(reason for reason, _ in cluster.events("mug"))
    assert reasons["AttemptSuspended"] == reasons["Suspended"] == reasons["Resumed"] == 1
    assert_alike(exported(cluster, cluster.run("mug")), exported(cluster, uninterrupted.run))


def exported(cluster: Cluster, run: str) -> dict[str, np.ndarray]:
    """The exported UNet, by name of its tensors."""
    with tempfile.TemporaryDirectory() as folder:
        fetch = cluster.storage.client.download_tree
        (path,) = fetch(f"{run}/export", Path(folder), select=UNET.__eq__)
        return load_file(path)


def assert_alike(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    """The number of ranks changes the order of sums, and nothing else."""
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_allclose(values, other[name], rtol=1e-3, atol=1e-4, err_msg=name)
