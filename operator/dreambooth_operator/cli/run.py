"""`dreambooth run`: from a job file to its results on this machine."""

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.parsing.load import dump
from dreambooth_api.parsing.warnings.advice import warnings
from dreambooth_operator.cli.job_file import STANDARD_INPUT, check_job, read_job
from dreambooth_operator.cli.terminal.end import Report, print_entry, print_text, resume_command
from dreambooth_operator.cli.terminal.screen import screen_for
from dreambooth_operator.errors import UserError
from dreambooth_operator.local.host import check_fits
from dreambooth_operator.local.run import RunEnd, run_job
from dreambooth_operator.local.runner import StopRequest, stop_on_signals
from dreambooth_operator.local.state import DEFAULT_STATE, Run, State
from dreambooth_operator.local.storage import (
    LocalStorage,
    needs_embedded,
    storage_for,
    with_endpoint,
)
from dreambooth_operator.local.uploads import Upload, upload
from dreambooth_storage import without_userinfo

UPLOAD = re.compile(r"(?P<source>.+)=(?P<uri>(?:s3://[^/]|file:///).*)", re.DOTALL)
"""LOCAL=URI. Paths and keys may hold a `=` too: the last one that a URI follows counts."""


@dataclass(frozen=True)
class RunOptions:
    """The options of `dreambooth run`, as they were given."""

    file: Path
    uploads: tuple[str, ...]
    state: Path
    fresh: bool
    resume: bool
    nodes: int | None
    gpus: int | None


def run(options: RunOptions) -> int:
    """Run the job in a file; returns the exit code: 0, or the trainer's (`ExitCode`).

    Raises:
        UserError: The job is not valid, does not fit on this machine, or cannot be resumed;
            another process uses the state folder.
        StorageError: An upload fails.
    """
    # Paths and commands stay on one line, so that they can be copied.
    console = Console(soft_wrap=True)
    job = with_endpoint(
        with_ranks(read_job(options.file), nodes=options.nodes, gpus=options.gpus), os.environ
    )
    check_fits(job)
    uploads = [parse_upload(text) for text in options.uploads]
    advice = warnings(job)
    for warning in advice:
        print_text(console, f"warning: {warning}")
    state = State(options.state)
    with state.locked():
        if options.fresh:
            state.wipe()
            print_text(console, f"deleted all runs in {state.folder}")
        if options.resume:
            # Under the lock: another process may be running this very job.
            run = _resumed_run(job, state)
            print_text(console, f"resuming {run.folder.name} {run.resume_point}")
        else:
            run = state.new_run(job, embedded=needs_embedded(job))
        with storage_for(run.job, state, run.record.embedded) as storage:
            print_storage(storage, state, console)
            upload_files(uploads, storage, state, console)
            command = resume_command(
                _file_of(run) if options.file == STANDARD_INPUT else options.file,
                state=None if options.state == DEFAULT_STATE else options.state,
                nodes=options.nodes,
                gpus=options.gpus,
            )
            with stop_on_signals() as stop:
                end = run_to_end(run, storage, stop, Terminal(console, command, advice))
            return end.exit_code


def with_ranks(
    job: DreamBoothJob, *, nodes: int | None, gpus: int | None, trains: bool = True
) -> DreamBoothJob:
    """The job with --nodes and --gpus in place of its own, validated again.

    Args:
        job: The job.
        nodes: As given; None leaves its own.
        gpus: Of each node, likewise.
        trains: Whether the ranks divide its batch.

    Raises:
        UserError: It is not valid with them.
    """
    given = {"nodes": nodes, "gpusPerNode": gpus}
    overrides = {field: value for field, value in given.items() if value is not None}
    if not overrides:
        return job
    # Not model_copy, which validates nothing: other fields may depend on the number of ranks.
    document = job.model_dump(mode="json", by_alias=True, exclude_unset=True)
    document["spec"]["runtime"] = document["spec"].get("runtime", {}) | overrides
    if not trains:
        document["spec"].get("training", {}).pop("globalBatch", None)
    return check_job(document, "the job with --nodes and --gpus")


def print_storage(storage: LocalStorage, state: State, console: Console) -> None:
    """Whose storage the job's s3:// URIs are on: a name alone may exist on several servers."""
    url = storage.job.spec.storage.endpoint_url
    if storage.embedded:
        print_text(
            console,
            f"storage: an S3 server for this run, in {state.storage}; to use another, set"
            " spec.storage.endpointURL or AWS_ENDPOINT_URL",
        )
    elif url:
        print_text(console, f"storage: {without_userinfo(url)}")


def parse_upload(text: str) -> Upload:
    """Read one `--upload`.

    Raises:
        UserError: It has another form, or there is no such file.
    """
    match = UPLOAD.fullmatch(text)
    if match is None:
        raise UserError(
            f"--upload {text}: use LOCAL=URI, for example photos/mug=s3://bucket/subjects/mug;"
            " a URI is s3://bucket/folder or file:///folder"
        )
    if not Path(match["source"]).exists():
        raise UserError(f"--upload {match['source']}: no such file or folder")
    return Upload(Path(match["source"]), match["uri"])


def upload_files(
    uploads: list[Upload], storage: LocalStorage, state: State, console: Console
) -> None:
    """Upload files, and print how many.

    Raises:
        UserError: A source holds no files.
        StorageError: An upload or a removal fails.
    """
    for each, done in zip(uploads, upload(storage, state, uploads), strict=True):
        removed = f", removed {done.removed} old ones" if done.removed else ""
        print_text(
            console, f"uploaded {done.written} files from {each.source} to {each.uri}{removed}"
        )


def _resumed_run(job: DreamBoothJob, state: State) -> Run:
    """The run of this job to resume, with the job as it is now."""
    name = job.metadata.name
    run = state.run_to_resume(name, job.metadata.namespace)
    if run is None:
        raise UserError(f"--resume: {state.folder} holds no run of {name}; run it without --resume")
    if run.record.state == "Succeeded":
        raise UserError(
            f"--resume: the last run of {name} succeeded; to train more steps, raise"
            f" spec.training.steps, set spec.resumeFrom to {{job: {name}}}, and run it without"
            " --resume"
        )
    # The uid names the output folder, in which the checkpoints are.
    job.metadata.uid = run.job.metadata.uid
    # A run goes on where its files are, also without the variable that named the server.
    job.spec.storage.endpoint_url = (
        job.spec.storage.endpoint_url or run.job.spec.storage.endpoint_url
    )
    run.record.job = job
    return run


def _file_of(run: Run) -> Path:
    """The run's job as a file, in place of standard input, which cannot be read again."""
    path = run.folder / "job.yaml"
    path.write_text(dump(run.job))
    return path


@dataclass(frozen=True)
class Terminal:
    """What the output of a run needs beside the run."""

    console: Console
    command: str
    """The command line that resumes the run."""
    advice: list[str]
    """Warnings of the job that were printed already."""


def run_to_end(run: Run, storage: LocalStorage, stop: StopRequest, terminal: Terminal) -> RunEnd:
    """Run a job to its end, and print how it goes and ends."""
    started = time.monotonic()
    console = terminal.console
    print_entry(console, "logs", f"{run.folder}/pod-*.log")
    screen = screen_for(console, terminal.advice)
    try:
        end = run_job(run, storage, stop, screen)
    finally:
        screen.close()
    Report(run, storage, terminal.command, console).print_end(end, time.monotonic() - started)
    return end
