"""The short commands: validate, render and samples."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth_api.models.job import DreamBoothJob, output_prefix
from dreambooth_api.parsing.advice import warnings
from dreambooth_operator.cli.job_file import read_job
from dreambooth_operator.errors import UserError
from dreambooth_operator.manifests.resources import attempt_objects, preflight_job
from dreambooth_operator.manifests.serialize import to_yaml

if TYPE_CHECKING:
    from dreambooth_operator.local.state import State


def default_image() -> str:
    """The trainer image of this version."""
    from importlib.metadata import version

    return f"dreambooth-trainer:{version('dreambooth-operator')}"


def validate(files: list[Path]) -> int:
    """Check job files, one line per file and problem; returns the exit code."""
    return max(_validate(path) for path in files)


def _validate(path: Path) -> int:
    try:
        job = read_job(path)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for warning in warnings(job):
        sys.stderr.write(f"{path}: warning: {warning}\n")
    sys.stdout.write(f"{path}: valid\n")
    return 0


def render(file: Path, attempt: int, image: str) -> str:
    """The objects of one attempt and its preflight check, as YAML."""
    job = read_job(file)
    image = image or default_image()
    return to_yaml([*attempt_objects(job, attempt, image), preflight_job(job, image)])


def samples(name_or_file: str, to: Path | None, state_folder: Path) -> None:
    """Fetch the grids of the newest run of a job, by its name or file."""
    from dreambooth_operator.cli.results import fetch, is_grid, newest_run
    from dreambooth_operator.local.state import State
    from dreambooth_operator.local.storage import storage_for

    state = State(state_folder)
    job, embedded = _job_and_place(name_or_file, state)
    lock = state.locked() if embedded else nullcontext()
    with lock, storage_for(job, state, embedded) as storage:
        job.metadata.uid = job.metadata.uid or newest_run(storage.client, job)
        found = fetch(storage.client, output_prefix(job), _folder(job, to), is_grid)
    if not found.files:
        raise UserError(f"{name_or_file}: there are no samples below {output_prefix(job)} yet")
    for path in found.files:
        sys.stdout.write(f"{path}\n")


def _job_and_place(name_or_file: str, state: "State") -> tuple[DreamBoothJob, bool]:
    """The job with the uid of its newest run here, and whether that used the embedded storage.

    A file whose job never ran here may have run on a cluster: it has no uid, and its own storage.
    """
    named = read_job(Path(name_or_file)) if Path(name_or_file).is_file() else None
    run = state.latest_run(named.metadata.name if named else name_or_file)
    if run is not None:
        return run.job, run.record.embedded
    if named is not None:
        return named, False
    raise UserError(
        f"{name_or_file}: no such file, and no run of that name in {state.folder};"
        " name the job's file, or another folder with --state"
    )


def _folder(job: DreamBoothJob, to: Path | None) -> Path:
    return to or Path(f"{job.metadata.name}-samples")
