"""`dreambooth run`: from a job file to its results on this machine."""

import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from dreambooth_api.contract.exit_codes import ExitCode
from dreambooth_api.models.job import DreamBoothJob, output_prefix
from dreambooth_api.parsing.advice import warnings
from dreambooth_operator.cli.job_file import checked, read_job
from dreambooth_operator.cli.results import Results, fetch, is_result, is_small
from dreambooth_operator.cli.screen import duration, score_table, screen_for
from dreambooth_operator.errors import UserError
from dreambooth_operator.local.machine import check_fits
from dreambooth_operator.local.run import FAILURE_LOG_LINES, RunEnd, run_job
from dreambooth_operator.local.runner import stop_on_signals
from dreambooth_operator.local.state import DEFAULT_STATE, Run, State
from dreambooth_operator.local.storage import LocalStorage, needs_embedded, storage_for
from dreambooth_storage import StorageError
from dreambooth_storage.uri import parse


@dataclass(frozen=True)
class RunOptions:
    """The command's options."""

    file: Path
    uploads: tuple[str, ...]
    state: Path
    fresh: bool
    resume: bool
    nodes: int | None
    gpus: int | None


def run_file(options: RunOptions) -> int:
    """Run the job in a file; returns the exit code: 0, or the trainer's."""
    console = Console(soft_wrap=True)
    job = _adapted(read_job(options.file), options)
    check_fits(job)
    uploads = [_upload(text) for text in options.uploads]
    for warning in warnings(job):
        _print(console, f"warning: {warning}")
    state = State(options.state)
    with state.locked():
        if options.fresh:
            state.wipe()
        run = _run_of(job, state, options)
        with storage_for(run.job, state, run.record.embedded) as storage:
            for source, uri in uploads:
                count = len(storage.client.upload_tree(source, uri, field="--upload"))
                _print(console, f"uploaded {count} files from {source} to {uri}")
            return _run(run, storage, options, console)


def _adapted(job: DreamBoothJob, options: RunOptions) -> DreamBoothJob:
    """The job with what the command line sets in its place, checked again."""
    given = {"nodes": options.nodes, "gpusPerNode": options.gpus}
    chosen = {field: value for field, value in given.items() if value is not None}
    if not chosen:
        return job
    document = job.model_dump(mode="json", by_alias=True, exclude_unset=True)
    document["spec"]["runtime"] = document["spec"].get("runtime", {}) | chosen
    return checked(document, "the job with --nodes and --gpus")


def _upload(text: str) -> tuple[Path, str]:
    source, _, uri = text.partition("=")
    if not source or not uri:
        raise UserError(f"--upload {text}: use LOCAL=URI, as in photos=s3://bucket/subjects/me")
    parse(uri)  # raises StorageError
    if not Path(source).exists():
        raise UserError(f"--upload {source}: no such file or folder")
    return Path(source), uri


def _run_of(job: DreamBoothJob, state: State, options: RunOptions) -> Run:
    """A new run, or the last one of this job to go on with."""
    if not options.resume:
        return state.new_run(job, embedded=needs_embedded(job))
    name = job.metadata.name
    run = state.latest_run(name, job.metadata.namespace)
    if run is None:
        raise UserError(f"--resume: {state.folder} holds no run of {name}; run it without --resume")
    if run.record.state == "Succeeded":
        raise UserError(f"--resume: the last run of {name} succeeded; run it without --resume")
    job.metadata.uid = run.job.metadata.uid
    run.record.job = job
    return run


def _run(run: Run, storage: LocalStorage, options: RunOptions, console: Console) -> int:
    started = time.monotonic()
    _print(console, f"{'logs':<13}{run.folder}/pod-*.log")
    screen = screen_for(console)
    with stop_on_signals() as stop:
        try:
            end = run_job(run, storage, stop, screen)
        finally:
            screen.close()
    if end.failure:
        _report_failure(run, end, options, console)
    elif end.exit_code:
        _report_stop(run, end, options, console)
    else:
        took = duration(time.monotonic() - started)
        _print(console, f"succeeded in {took}", style="bold green")
        _report_results(run, storage, console)
    return end.exit_code


def _report_results(run: Run, storage: LocalStorage, console: Console) -> None:
    """Where the result is, and how good it is. What nobody else serves is copied to a folder."""
    output = output_prefix(run.job)
    wanted = is_result if storage.embedded else is_small
    try:
        results = fetch(storage.client, output, run.results, wanted)
    except StorageError as error:  # the job succeeded all the same
        _print(console, f"{'result':<13}{output}/ (cannot be fetched: {error})")
        return
    for what, where in _places(output, results):
        _print(console, f"{what:<13}{where}")
    for entry in results.scores:
        console.print(score_table(entry))


def _places(output: str, results: Results) -> list[tuple[str, object]]:
    places = [
        ("result", f"{output}/"),
        ("model", results.export),
        ("samples", results.newest_grid),
        ("before/after", results.before_after),
    ]
    return [(what, where) for what, where in places if where]


def _report_stop(run: Run, end: RunEnd, options: RunOptions, console: Console) -> None:
    saved = end.exit_code == ExitCode.STOPPED
    what = "the state is saved" if saved else "what was done since the last checkpoint is lost"
    _print(console, f"stopped (exit code {end.exit_code}): {what}", style="bold")
    _print(console, f"go on with: {_again(options)}")


def _report_failure(run: Run, end: RunEnd, options: RunOptions, console: Console) -> None:
    """Which pod failed, why, what to do, and where the logs are."""
    failure = end.failure
    assert failure is not None
    title = f"FAILED: pod {failure.end.index} of {run.job.spec.runtime.nodes}"
    _print(console, f"{title} ended with exit code {end.exit_code}", style="bold red")
    _print_indented(console, failure.end.message.splitlines())
    _print(console, f"last lines of {failure.pod.log}:")
    _print_indented(console, failure.pod.last_lines(FAILURE_LOG_LINES), style="dim")
    if failure.retryable:
        budget = run.job.spec.runtime.restart.max_failures
        limit = f"spec.runtime.restart.maxFailures is {budget}"
        _print(console, f"it was started {run.record.attempts} times; {limit}")
        _print(console, f"go on from the last checkpoint with: {_again(options)}")


def _again(options: RunOptions) -> str:
    state = "" if options.state == DEFAULT_STATE else f" --state {options.state}"
    return f"dreambooth run -f {options.file}{state} --resume"


def _print(console: Console, text: str, style: str = "") -> None:
    """Print what may hold brackets and paths: nothing of it is markup."""
    console.print(text, style=style, markup=False, highlight=False)


def _print_indented(console: Console, lines: list[str], style: str = "") -> None:
    for line in lines:
        _print(console, f"  {line}", style)
