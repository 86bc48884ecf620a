"""`dreambooth samples`: fetches the sample grids of a job's newest run that has some."""

import sys
from pathlib import Path

from dreambooth_api.contract.layout import OutputLayout
from dreambooth_api.models.job import DreamBoothJob, output_layout
from dreambooth_operator.cli.find import find_result, read_recorded_job
from dreambooth_operator.cli.output import check_folder
from dreambooth_operator.cli.results import LocalResults, fetch, is_grid, newest_run_uid
from dreambooth_operator.errors import UserError
from dreambooth_operator.local.state import State
from dreambooth_operator.local.storage import TRANSFER_POLICY, storage_to_read
from dreambooth_storage import Storage, StorageSettings


def samples(result: str, to: Path | None, state_folder: Path) -> None:
    """Fetch the grids to a folder, `<name>-samples` unless `to` names another; prints their paths.

    Args:
        result: As of `find_result`.
        to: The folder.
        state_folder: Folder of local runs.

    Raises:
        UserError: There is no such run, it has no samples yet, or `to` is no folder.
        StorageError: It cannot be read.
    """
    state = State(state_folder)
    found = find_result(result, state)
    fetched = _of_folder(found, to) if isinstance(found, str) else _of_job(*found, to, state)
    for path in fetched.files:
        sys.stdout.write(f"{path}\n")


def _of_folder(root: str, to: Path | None) -> LocalResults:
    folder = _target(read_recorded_job(root), to)
    with Storage(StorageSettings(), policy=TRANSFER_POLICY) as client:
        results = fetch(client, OutputLayout(root), folder, is_grid)
    if not results.files:
        raise UserError(f"{root}: no samples there")
    return results


def _of_job(newest: DreamBoothJob, embedded: bool, to: Path | None, state: State) -> LocalResults:
    """The grids of a job's newest run.

    A run that was refused must not hide the samples of an earlier one, which a line then names.
    """
    earlier = [(run.job, run.record.embedded) for run in state.earlier_runs(newest)]
    for job, is_embedded in [(newest, embedded), *earlier]:
        results = _fetch(job, is_embedded, to, state)
        if results.files:
            if job is not newest:
                sys.stderr.write(
                    f"no samples yet below {output_layout(newest).root}: these are of the run"
                    f" before, {output_layout(job).root}\n"
                )
            return results
    raise UserError(f"{newest.metadata.name}: no samples yet below {output_layout(newest).root}")


def _fetch(job: DreamBoothJob, embedded: bool, to: Path | None, state: State) -> LocalResults:
    with storage_to_read(job, state, embedded) as storage:
        job.metadata.uid = job.metadata.uid or newest_run_uid(storage.client, job, is_grid)
        folder = _target(job, to)
        return fetch(storage.client, output_layout(job), folder, is_grid)


def _target(job: DreamBoothJob, to: Path | None) -> Path:
    folder = to or Path(f"{job.metadata.name}-samples")
    check_folder(folder, "--to")
    return folder
