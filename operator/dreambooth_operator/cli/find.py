"""Finds what a command is about: a job by its name or file, a run by its folder."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from dreambooth_api.contract.layout import OutputLayout
from dreambooth_api.models.job import DreamBoothJob, output_layout
from dreambooth_api.parsing.other_versions import with_known_fields
from dreambooth_operator.cli.job_file import STANDARD_INPUT, check_job, read_job
from dreambooth_operator.errors import UserError
from dreambooth_operator.local.state import DEFAULT_STATE, Run, State
from dreambooth_operator.local.storage import TRANSFER_POLICY, with_endpoint
from dreambooth_storage import ObjectNotFoundError, Storage, StorageSettings

MOST_NAMED = 10
"""Runs that a message names, the newest."""


def find_result(result: str, state: State) -> tuple[DreamBoothJob, bool] | str:
    """The job of a run that is known here, as `find_job`; else the URI of the run's folder.

    Args:
        result: Name of a job that ran here, a job's file, or the folder of a run: a path or a URI.
            A name comes before a folder in the working directory that holds no run.
        state: Holds the runs that are known.

    Raises:
        UserError: There is no such job, its file is not valid, or the run is in the storage of
            another folder of runs.
    """
    path = Path(result)
    is_run = (path / "run.json").is_file()
    if result.startswith(("s3://", "file://")):
        root = result.rstrip("/")
    elif path.is_dir() and (is_run or state.latest_run(result) is None):
        # Not as_uri(): storage takes URIs literally.
        root = f"file://{os.path.normpath(path.absolute())}"
    else:
        return find_job(result, state)
    if run := _run_in(root, state):
        return run.job, run.record.embedded
    for other in _states_beside(state) if root.startswith("s3://") else ():
        # Without credentials for its server, the storage would refuse in words that do not help.
        if (run := _run_in(root, other)) and run.record.embedded:
            raise UserError(f"{root}: is in the storage of {other.folder}: name it with --state")
    return root


def _run_in(root: str, state: State) -> Run | None:
    """The run whose folder, in storage or on this machine, is a URI."""
    for run in state.runs():
        if root in (output_layout(run.job).root, f"file://{run.folder}", f"file://{run.results}"):
            return run
    return None


def _states_beside(state: State) -> Iterator[State]:
    """The folders of local runs beside this one, such as that of the demo."""
    for folder in sorted(state.folder.parent.glob(f"{DEFAULT_STATE}*")):
        if folder != state.folder:
            yield State(folder)


def find_recorded(root: str, state: State) -> tuple[DreamBoothJob, bool]:
    """The job in run.json of a run's folder, and whether the embedded storage has its models.

    It has those of a run of this machine, also where the folder is a copy.

    Raises:
        UserError: There is no run.json, or no valid job in it.
        StorageError: It cannot be read.
    """
    job = read_recorded_job(root)
    run = state.run_of(job.metadata.uid) if root.startswith("file://") else None
    if run is not None and run.record.embedded:
        return job, True
    return with_endpoint(job, os.environ), False


def read_recorded_job(root: str) -> DreamBoothJob:
    """The job in run.json of a run's folder.

    Raises:
        UserError: There is no run.json, or no valid job in it.
        StorageError: It cannot be read.
    """
    record = OutputLayout(root).run_record
    with Storage(StorageSettings(), policy=TRANSFER_POLICY) as client:
        try:
            document = json.loads(client.read(record))["job"]
        except ObjectNotFoundError as error:
            raise UserError(f"{root}: no run.json there; name the folder of a run") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{record}: is no record of a run; name the folder of a run") from error
    known = with_known_fields(document)
    if known != document:
        sys.stderr.write(
            f"warning: {record}: is of another version of dreambooth; fields that this one does not"
            " know are ignored\n"
        )
    return check_job(known, f"the job in {record}", check_rules=False)


def find_job(name_or_file: str, state: State) -> tuple[DreamBoothJob, bool]:
    """The job with the uid of its newest run here, and whether that used the embedded storage.

    A file whose job never ran here may have run on a cluster: it has no uid, and its own storage.
    """
    job, run = find_run(name_or_file, state)
    if run is not None:
        return run.job, run.record.embedded
    if job is not None:
        return with_endpoint(job, os.environ), False
    raise UserError(f"{name_or_file}: {_unknown(name_or_file, state)}")


def _unknown(name: str, state: State) -> str:
    """Why nothing is found by a name, and what is there."""
    what = "is a folder without run.json" if Path(name).is_dir() else "no such file"
    problem = f"{what}, and no run of that name in {state.folder}"
    if other := next((each for each in _states_beside(state) if each.latest_run(name)), None):
        return f"{problem}; there is one in {other.folder}: name it with --state"
    if known := list(dict.fromkeys(run.job.metadata.name for run in state.runs())):
        more = ", ..." if len(known) > MOST_NAMED else ""
        return (
            f"{problem}, but of {', '.join(known[:MOST_NAMED])}{more}; name one of these, the job's"
            " file, or another folder with --state"
        )
    return f"{problem}, which holds none; name the job's file, or another folder with --state"


def find_run(name_or_file: str, state: State) -> tuple[DreamBoothJob | None, Run | None]:
    """The job in a file (None for a name), and the newest run of it or of the name, if any.

    Raises:
        UserError: The file is not a valid job.
    """
    path = Path(name_or_file)
    if path != STANDARD_INPUT and not path.is_file():
        return None, state.latest_run(name_or_file)
    job = read_job(path)
    return job, state.latest_run(job.metadata.name, job.metadata.namespace)
