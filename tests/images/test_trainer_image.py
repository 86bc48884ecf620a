"""The trainer's image for CPUs, built by buildah, trains as the pod of a job: slow."""

from __future__ import annotations

import json
import signal
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_operator.local.seaweed import SeaweedServer
from dreambooth_operator.manifests import resources
from tests.cluster.kubectl import eventually
from tests.e2e.jobs import small_job
from tests.e2e.storage import BUCKET, Storage, own_storage
from tests.images.containers import COMPILERS, Container, Image, running
from tests.ports import free_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]
ANYBODY = "1000650000:0"
UID = "6f0c"
STEPS = 30
RUN = f"s3://{BUCKET}/results/default/mug/{UID}"


@pytest.fixture(scope="module")
def storage(s3_server: SeaweedServer) -> Storage:
    """An S3 server with the examples in it."""
    made = own_storage(s3_server)
    made.upload_examples()
    return made


def job(storage: Storage) -> DreamBoothJob:
    document = small_job(storage, steps=STEPS, every=STEPS, nodes=1)
    document["metadata"] |= {"namespace": "default", "uid": UID}
    return DreamBoothJob.model_validate(document)


def environment(container: dict[str, Any], storage: Storage, port: int) -> dict[str, str]:
    """What the kubelet would make of the container's variables, for a job with one pod."""
    fields = {"POD_IP": "127.0.0.1", "PET_NODE_RANK": "0"}
    values = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    address = {"PET_MASTER_ADDR": "127.0.0.1", "DREAMBOOTH_METRICS_PORT": str(port)}
    return {**values, **fields, **address, **storage.environment, "OMP_NUM_THREADS": "1"}


def volumes(job: DreamBoothJob, folder: Path) -> dict[str, Path]:
    """The pod's volumes as folders: the job's file, and empty ones that anybody may write to."""
    config = folder / "config"
    config.mkdir(parents=True)
    for name, text in resources.config_map(job)["data"].items():
        (config / name).write_text(text)
    made = {"config": config}
    for name in ("cache", "models-in-memory", "shm", "tmp"):
        made[name] = folder / name
        made[name].mkdir()
        made[name].chmod(0o777)
    return made


class Pod:
    """The pod of an attempt."""

    def __init__(self, container: Container, port: int) -> None:
        self.container = container
        self._port = port

    def step(self) -> int:
        """The steps that it has done."""
        with (
            suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{self._port}/progress", timeout=5) as answer,
        ):
            return int(json.loads(answer.read())["step"])
        return 0

    def end(self) -> int:
        """Wait for its end; returns its exit code."""
        daemon = self.container.daemon
        assert eventually(lambda: not daemon.alive, seconds=180), daemon.tail()
        assert daemon.returncode is not None
        return daemon.returncode


Start = Callable[[int], AbstractContextManager[Pod]]


@pytest.fixture
def attempt(trainer_image: Image, storage: Storage, tmp_path: Path) -> Start:
    """A function that runs the only pod of an attempt."""

    @contextmanager
    def start(number: int) -> Iterator[Pod]:
        (port,) = free_ports(1)
        manifest = resources.attempt_job(job(storage), number, "unused")
        (container,) = manifest["spec"]["template"]["spec"]["containers"]
        with running(
            trainer_image,
            container,
            ANYBODY,
            tmp_path / f"{number}.log",
            volumes=volumes(job(storage), tmp_path / str(number)),
            environment=environment(container, storage, port),
        ) as started:
            yield Pod(started, port)

    return start


def test_it_holds_no_operator_and_no_compiler(trainer_image: Image) -> None:
    assert not {path.name for path in trainer_image.files()}.intersection(COMPILERS)
    packages = trainer_image.packages()
    assert {"dreambooth_trainer", "wandb"} <= packages
    assert not packages.intersection({"dreambooth_operator", "kubernetes", "pip"})


def test_anybody_trains_saves_when_asked_to_stop_and_goes_on(
    attempt: Start, storage: Storage
) -> None:
    with attempt(0) as pod:
        assert eventually(lambda: pod.step() > 0, seconds=180), pod.container.daemon.tail()
        pod.container.signal(signal.SIGTERM)
        assert pod.end() == 143, pod.container.daemon.tail()
        assert pod.container.message.startswith("rank 0: ")
    (saved,) = storage.checkpoints(RUN)
    assert 0 < saved < STEPS
    with attempt(1) as pod:
        assert pod.end() == 0, pod.container.daemon.tail()
    assert storage.checkpoints(RUN)[-1] == STEPS
    assert storage.document(RUN, "run.json")["attempts"][1]["resumedFromStep"] == saved
    assert storage.weights(RUN)
