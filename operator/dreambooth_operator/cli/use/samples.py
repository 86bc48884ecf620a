"""`dreambooth samples`: fetches the sample grids of a job's newest run that has some."""

import sys
from pathlib import Path

from dreambooth_api.models.job import DreamBoothJob, output_layout
from dreambooth_operator.cli.find import find_job
from dreambooth_operator.cli.results import LocalResults, fetch, is_grid, newest_run_uid
from dreambooth_operator.errors import UserError
from dreambooth_operator.local.state import State
from dreambooth_operator.local.storage import storage_to_read


def samples(name_or_file: str, to: Path | None, state_folder: Path) -> None:
    """Fetch the grids to a folder, `<name>-samples` unless `to` names another; prints their paths.

    A run that was refused must not hide the samples of an earlier one, which a line then names.

    Raises:
        UserError: There is no such job, or it has no samples yet.
    """
    state = State(state_folder)
    newest, is_embedded = find_job(name_or_file, state)
    earlier = [(run.job, run.record.embedded) for run in state.earlier_runs(newest)]
    for job, embedded in [(newest, is_embedded), *earlier]:
        results = _fetch(job, embedded, to, state)
        if results.files:
            if job is not newest:
                sys.stderr.write(
                    f"no samples yet below {output_layout(newest).root}: these are of the run"
                    f" before, {output_layout(job).root}\n"
                )
            for path in results.files:
                sys.stdout.write(f"{path}\n")
            return
    raise UserError(f"{name_or_file}: no samples yet below {output_layout(newest).root}")


def _fetch(job: DreamBoothJob, embedded: bool, to: Path | None, state: State) -> LocalResults:
    with storage_to_read(job, state, embedded) as storage:
        job.metadata.uid = job.metadata.uid or newest_run_uid(storage.client, job, is_grid)
        folder = to or Path(f"{job.metadata.name}-samples")
        return fetch(storage.client, output_layout(job), folder, is_grid)
