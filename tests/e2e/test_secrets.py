"""The credentials that a job works with are in their Secret, and nowhere else."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from dreambooth_api.contract.environment import DEFAULT_METRICS_PORT
from tests.cluster.client import Object
from tests.e2e.cluster import CHILDREN, Cluster, condition
from tests.e2e.jobs import training_job
from tests.e2e.operator_process import Operator
from tests.e2e.storage import CREDENTIALS

OBJECTS = f"dbj,{CHILDREN},pod,event"
WRONG_KEY = "5f0a9c1e77d2b84360aa"


def traces(credentials: Mapping[str, str], contents: Mapping[str, bytes]) -> list[str]:
    """Where which credential is found, in plain or as in a Secret's data."""
    return [
        f"{name} in {place}"
        for place, content in contents.items()
        for name, value in credentials.items()
        if value.encode() in content or base64.b64encode(value.encode()) in content
    ]


def answers_of_pods(cluster: Cluster, name: str) -> Iterator[tuple[str, bytes]]:
    """The HTTP responses of a training job's ranks."""
    cluster.wait_step(name, 1)
    for index, paths in enumerate((["/metrics", "/progress"], ["/metrics"])):
        pod = cluster.wait_pod(name, attempt=0, index=index)
        for path in paths:
            url = f"http://{pod['status']['podIP']}:{DEFAULT_METRICS_PORT}{path}"
            with urllib.request.urlopen(url, timeout=10) as answer:
                yield url, answer.read()


def objects(cluster: Cluster) -> Iterator[tuple[str, bytes]]:
    """Every object and event of the namespace, but its Secrets."""
    text = cluster.kubectl("get", OBJECTS, "--output=json", "--show-managed-fields")
    for each in json.loads(text)["items"]:
        yield f"{each['kind']} {each['metadata']['name']}", json.dumps(each).encode()


def logs(cluster: Cluster) -> Iterator[tuple[str, bytes]]:
    """What pods, nodes, the operator and the control plane have written."""
    plane = cluster.setup.plane.folder.glob("*.log")
    agents = [node.folder / "agent.log" for node in cluster.nodes.values()]
    pods = [log for node in cluster.nodes.values() for log in node.logs(cluster.namespace)]
    for log in [*plane, *agents, *pods, cluster.operator.log]:
        yield str(log), log.read_bytes()


def results(cluster: Cluster, name: str, folder: Path) -> Iterator[tuple[str, bytes]]:
    """All that a job has left in storage."""
    for file in cluster.storage.client.download_tree(cluster.run(name), folder):
        yield str(file.relative_to(folder)), file.read_bytes()


def outputs(cluster: Cluster, job: Object, folder: Path) -> Iterator[tuple[str, bytes]]:
    """What the commands print on the job, to a user who has the credentials."""
    file = folder / "job.yaml"
    file.write_text(json.dumps(cluster.placed(job)))
    for command in ("validate", "render"):
        program = [
            "-c",
            "from dreambooth_operator.cli.main import main; main()",
            command,
            str(file),
        ]
        ended = subprocess.run(
            [sys.executable, *program],
            env={**os.environ, **cluster.storage.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=True,
        )
        yield f"dreambooth {command}", ended.stdout


@pytest.mark.own_nodes
def test_credentials_leave_no_trace(cluster: Cluster, operator: Operator, tmp_path: Path) -> None:
    known = {name: cluster.storage.environment.get(name, "") for name in CREDENTIALS}
    credentials = {name: value for name, value in known.items() if value}
    assert len(credentials) >= 2
    wrong = {**cluster.storage.secret, "metadata": {"name": "wrong"}}
    wrong["stringData"] = {**credentials, "AWS_SECRET_ACCESS_KEY": WRONG_KEY}
    cluster.kubectl.create(wrong)

    job, refused = training_job(cluster.storage), training_job(cluster.storage, "refused")
    job["spec"]["tracking"] = {"tensorboard": True}
    refused["spec"]["storage"] = {
        **refused["spec"]["storage"],
        "credentials": {"secretRef": {"name": "wrong"}},
    }
    cluster.apply(job)
    cluster.apply(refused)
    texts = dict(answers_of_pods(cluster, "mug"))
    cluster.wait_phase("mug", "Succeeded", timeout=240)
    failed = cluster.wait_phase("refused", "Failed")
    assert "spec.storage.credentials.secretRef" in condition(failed, "Failed")["message"]

    texts |= dict(objects(cluster)) | dict(logs(cluster)) | dict(outputs(cluster, job, tmp_path))
    texts |= dict(results(cluster, "mug", tmp_path / "results"))
    texts["operator's metrics"] = operator.metrics().encode()
    for name in (
        "run.json",
        "history.jsonl",
        "DreamBoothJob mug",
        "Job mug-0",
        "dreambooth render",
    ):
        assert texts[name]
    assert any(name.endswith("/progress") for name in texts)
    assert traces({**credentials, "the wrong key": WRONG_KEY}, texts) == []
    # They would be found: they are where they have to be.
    secret = {"Secret": cluster.kubectl("get", "secret", "storage", "--output=json").encode()}
    assert len(traces(credentials, secret)) == len(credentials)
