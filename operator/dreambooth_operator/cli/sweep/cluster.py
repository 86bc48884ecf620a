"""The jobs of a sweep on a cluster: written for kubectl, and read back from it."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from dreambooth_api.contract.conditions import ConditionType
from dreambooth_api.contract.scores import Scores, UnreadableScoresError
from dreambooth_api.models.job import DreamBoothJob, output_layout
from dreambooth_api.models.status import Status
from dreambooth_api.parsing import yamljson
from dreambooth_operator.cli.job_file import STANDARD_INPUT, check_job
from dreambooth_operator.cli.sweep.members import SETTINGS_ANNOTATION, SWEEP_LABEL, Settings
from dreambooth_operator.cli.sweep.results import Result
from dreambooth_operator.errors import UserError
from dreambooth_operator.local.storage import TRANSFER_POLICY
from dreambooth_storage import Storage, StorageError, StorageSettings

LIST = f"kubectl get dbj -l {SWEEP_LABEL}=NAME -o yaml"
MAX_BYTES = 64 * 2**20
"""Longest list that is read: two hundred jobs of the size that kubectl can apply."""


def as_written(job: DreamBoothJob) -> dict[str, Any]:
    """The job as a manifest, without the defaults, which the API server fills in."""
    return job.model_dump(mode="json", by_alias=True, exclude_unset=True)


def read_jobs(file: Path) -> list[DreamBoothJob]:
    """Read the jobs of a sweep as `kubectl get -o yaml` or `-o json` lists them.

    Raises:
        UserError: The file holds no such list, or jobs of no sweep.
    """
    name = "standard input" if file == STANDARD_INPUT else str(file)
    if file == STANDARD_INPUT:
        data = sys.stdin.buffer.read(MAX_BYTES + 1)
    else:
        with file.open("rb") as source:
            data = source.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise UserError(f"{name}: is longer than {MAX_BYTES} bytes; list one sweep")
    try:
        documents = list(yamljson.documents(data.decode()))
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{name}: is no list of jobs; make one with: {LIST}") from error
    jobs = [
        check_job(each, f"job {number} of {name}", check_rules=False)
        for number, each in enumerate(_items(documents), 1)
    ]
    if not jobs:
        raise UserError(f"{name}: lists no jobs; check the label and the namespace of: {LIST}")
    return jobs


def _items(documents: list[Any]) -> Iterator[Any]:
    """The jobs among documents, each of which is a job or a List (kubectl)."""
    for document in documents:
        if isinstance(document, dict) and isinstance(document.get("items"), list):
            yield from document["items"]
        elif document is not None:
            yield document


def cluster_results(jobs: list[DreamBoothJob]) -> list[Result]:
    """How far the jobs are, with the scores of those that have succeeded.

    Raises:
        UserError: A job belongs to no sweep.
    """
    return [_result(job) for job in jobs]


def _result(job: DreamBoothJob) -> Result:
    status = job.status or Status()
    result = Result(
        name=job.metadata.name,
        settings=_settings(job),
        phase=status.phase or "",
        reason=_failure(status),
        seconds=status.run_seconds or None,
        scores=_scores(job) if status.phase == "Succeeded" else None,
        output=output_layout(job).root if status.start_time else "",
        samples=status.artifacts.samples if status.artifacts else None,
        best_step=status.best.step if status.best else None,
    )
    if result.scores is None or result.step is None:
        return result
    # The newest samples may be those of a later step.
    return replace(result, samples=output_layout(job).grid(result.step))


def _settings(job: DreamBoothJob) -> Settings:
    text = job.metadata.annotations.get(SETTINGS_ANNOTATION, "")
    try:
        return TypeAdapter(Settings).validate_json(text)
    except ValidationError as error:
        raise UserError(
            f"{job.metadata.name}: the annotation {SETTINGS_ANNOTATION} does not hold the values of"
            f" a sweep; list the jobs of one sweep alone: {LIST}"
        ) from error


def _failure(status: Status) -> str:
    """Why a job failed; empty when it did not."""
    failed = [each for each in status.conditions if each.type == ConditionType.FAILED]
    return failed[0].message if failed and failed[0].status == "True" else ""


def _scores(job: DreamBoothJob) -> Scores | None:
    """The scores in the job's storage; None where it has none, or this machine cannot read it."""
    if job.spec.evaluation is None:
        return None
    settings = StorageSettings.of(job.spec.storage)
    try:
        with Storage(settings, policy=TRANSFER_POLICY) as storage:
            return Scores.decode(storage.read(output_layout(job).scores))
    except (StorageError, UnreadableScoresError) as error:
        sys.stderr.write(f"warning: {job.metadata.name}: no scores: {error}\n")
        return None
