"""`dreambooth report`: writes the page that shows a run, from what the run has stored."""

import sys
from pathlib import Path

from dreambooth_api.models.job import output_layout
from dreambooth_operator.cli.find import find_result
from dreambooth_operator.cli.output import check_folder
from dreambooth_operator.cli.results import newest_run_uid
from dreambooth_operator.errors import UserError
from dreambooth_operator.local.state import State
from dreambooth_operator.local.storage import TRANSFER_POLICY, storage_to_read
from dreambooth_report.build import Report, build_report
from dreambooth_report.record import UnreadableRunError
from dreambooth_storage import Storage, StorageSettings


def report(result: str, output: Path | None, state_folder: Path) -> None:
    """Write the page of a run to `output`, `<name>-report.html` by default; prints its path.

    Args:
        result: The folder of a run, as a path or a URI; a job's file, or the name of one that ran
            here, stand for its newest run.
        output: File to write.
        state_folder: Folder of local runs.

    Raises:
        UserError: There is no such run, it has nothing to show, or `output` cannot be written.
        StorageError: It cannot be read.
    """
    if output is not None:
        _check(output)
    try:
        page = _build(result, State(state_folder))
    except UnreadableRunError as error:
        raise UserError(str(error)) from error
    path = output or Path(f"{page.name}-report.html")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page.html, encoding="utf-8")
    sys.stdout.write(f"{path}\n")


def _check(output: Path) -> None:
    if output.is_dir():
        raise UserError(f"--output {output}: is a folder; name a file, such as {output}/run.html")
    check_folder(output.parent, "--output")


def _build(result: str, state: State) -> Report:
    found = find_result(result, state)
    if isinstance(found, str):
        with Storage(StorageSettings(), policy=TRANSFER_POLICY) as client:
            return build_report(client, found)
    job, embedded = found
    with storage_to_read(job, state, embedded) as storage:
        job.metadata.uid = job.metadata.uid or newest_run_uid(storage.client, job)
        try:
            return build_report(storage.client, output_layout(job).root, job)
        except UnreadableRunError as error:
            run = state.run_of(job.metadata.uid)
            if run is None or not run.record.failure:
                raise
            raise UserError(
                f"{job.metadata.name}: failed before it trained, so there is nothing to show:"
                f" {run.record.failure.strip()}"
            ) from error
