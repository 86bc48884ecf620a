"""How an attempt ended is in the run's folder, and a page about it never fails the job."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dreambooth_api.contract.layout import OutputLayout
from dreambooth_api.contract.termination import AttemptEnd
from dreambooth_api.models.job import DreamBoothJob, output_layout
from dreambooth_storage import AccessDeniedError, Storage, StorageSettings
from dreambooth_trainer.process.errors import BadConfigError, FencedError
from dreambooth_trainer.process.signals import StoppedError
from dreambooth_trainer.process.topology import Topology
from dreambooth_trainer.run.report import recording_failure, write_report


@pytest.fixture
def job(tmp_path: Path) -> DreamBoothJob:
    spec = {
        "model": {"source": "s3://models/sd"},
        "subjects": [{"identifier": "sks", "classNoun": "mug", "images": "s3://b/mug"}],
        "output": f"file://{tmp_path}",
    }
    return DreamBoothJob.model_validate(
        {
            "apiVersion": "dreambooth.dev/v1alpha1",
            "kind": "DreamBoothJob",
            "metadata": {"name": "mug", "uid": "run"},
            "spec": spec,
        }
    )


def rank(number: int, attempt: int = 3) -> Topology:
    return Topology(
        rank=number, world_size=2, local_rank=0, ranks_per_node=1, attempt=attempt
    )  # fmt: skip


def end(storage: Storage, layout: OutputLayout, attempt: int = 3) -> AttemptEnd | None:
    uri = layout.attempt_end(attempt)
    return AttemptEnd.model_validate_json(storage.read(uri)) if storage.exists(uri) else None


def fail(job: DreamBoothJob, storage: Storage, topology: Topology, error: Exception) -> None:
    with pytest.raises(type(error)), recording_failure(job, topology, storage):
        raise error


def test_the_first_failure_of_an_attempt_is_recorded(job: DreamBoothJob) -> None:
    with Storage(StorageSettings()) as storage:
        fail(job, storage, rank(1), BadConfigError("spec.training: cannot be"))
        fail(job, storage, rank(0), RuntimeError("connection closed by peer"))
        found = end(storage, output_layout(job))
    assert found is not None
    assert (found.exit_code, found.rank, found.message) == (64, 1, "spec.training: cannot be")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (StoppedError("asked to stop"), 143, "asked to stop"),
        (RuntimeError("boom\nand more"), 1, "RuntimeError: boom"),
    ],
)
def test_what_is_recorded(job: DreamBoothJob, error: Exception, code: int, message: str) -> None:
    with Storage(StorageSettings()) as storage:
        fail(job, storage, rank(0), error)
        found = end(storage, output_layout(job))
    assert found is not None
    assert (found.exit_code, found.message) == (code, message)


@pytest.mark.parametrize(
    "error",
    [
        AccessDeniedError("s3://b/x", "is denied", "allow it"),
        FencedError("attempt 4 already owns s3://b/x"),
    ],
    ids=["storage refuses", "overtaken"],
)
def test_who_must_not_write_records_nothing(job: DreamBoothJob, error: Exception) -> None:
    with Storage(StorageSettings()) as storage:
        fail(job, storage, rank(0), error)
        assert end(storage, output_layout(job)) is None


def test_a_report_that_cannot_be_built_is_a_warning(
    job: DreamBoothJob, caplog: pytest.LogCaptureFixture
) -> None:
    with Storage(StorageSettings()) as storage, caplog.at_level(logging.WARNING):
        # There is no run.json to build it from.
        attempt: Any = SimpleNamespace(
            job=job, topology=rank(0), storage=storage, layout=output_layout(job)
        )
        write_report(attempt)
        found = end(storage, output_layout(job))
    assert found is not None
    assert found.exit_code == 0
    assert "report.html could not be written" in caplog.text
