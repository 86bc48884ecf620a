"""The command `dreambooth sweep`."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from dreambooth_api.parsing.warnings.advice import cluster_warnings
from dreambooth_operator.cli.job_file import STANDARD_INPUT, read_job
from dreambooth_operator.cli.run import parse_upload
from dreambooth_operator.cli.sweep.cluster import LIST, as_written, cluster_results, read_jobs
from dreambooth_operator.cli.sweep.local import LocalSweep, local_results, on_this_machine
from dreambooth_operator.cli.sweep.members import SWEEP_LABEL, expand
from dreambooth_operator.cli.sweep.results import Result
from dreambooth_operator.cli.sweep.table import to_page, to_table
from dreambooth_operator.cli.terminal.end import print_entry, print_text
from dreambooth_operator.cli.terminal.program import command_line
from dreambooth_operator.errors import UserError
from dreambooth_operator.local.state import DEFAULT_STATE, State
from dreambooth_operator.local.storage import TRANSFER_POLICY
from dreambooth_operator.manifests.serialize import to_yaml
from dreambooth_storage import Storage, StorageSettings


@dataclass(frozen=True)
class SweepOptions:
    """The options of `dreambooth sweep`, as they were given."""

    file: Path
    settings: tuple[str, ...]
    uploads: tuple[str, ...]
    state: Path
    nodes: int | None
    gpus: int | None


def render_jobs(file: Path, settings: Sequence[str]) -> None:
    """Print the jobs of a sweep as YAML documents, for `kubectl apply`.

    Raises:
        UserError: The file, or the job with a combination of values, is not valid.
    """
    members = expand(read_job(file), settings)
    notes = dict.fromkeys(note for member in members for note in cluster_warnings(member.job))
    for note in notes:
        sys.stderr.write(f"warning: {note}\n")
    sys.stdout.write(to_yaml([as_written(member.job) for member in members]))


def show_jobs(file: Path) -> None:
    """Show a sweep on a cluster, from the list of its jobs: a table, and a page in this folder.

    Raises:
        UserError: The file does not list the jobs of a sweep.
    """
    jobs = read_jobs(file)
    results = cluster_results(jobs)
    name = jobs[0].metadata.labels.get(SWEEP_LABEL, "")
    if not re.fullmatch(r"[-A-Za-z0-9_.]+", name):  # it becomes the name of a file
        raise UserError(f"{jobs[0].metadata.name}: lacks the label {SWEEP_LABEL}; {LIST}")
    settings = StorageSettings.of(jobs[0].spec.storage)
    with Storage(settings, policy=TRANSFER_POLICY) as storage:
        _show(name, results, storage, Path(f"{name}-sweep.html"), Console(soft_wrap=True))


def _show(
    name: str, results: Sequence[Result], storage: Storage, path: Path, console: Console
) -> None:
    """Print the table and why members failed, and write the page."""
    path.write_text(to_page(name, results, storage.read_start), encoding="utf-8")
    console.print(to_table(results), soft_wrap=False)
    for result in results:
        if result.cause:
            print_text(console, f"{result.name} failed: {result.cause}", style="red")
    print_entry(console, "page", path)


def run_jobs(options: SweepOptions) -> int:
    """Run all jobs of a sweep on this machine, then show them; returns 0 if all have succeeded.

    Raises:
        UserError: A job is not valid or does not fit on this machine, and none has run; another
            process uses the state folder.
        StorageError: An upload fails.
    """
    if options.file == STANDARD_INPUT:
        raise UserError("a sweep on this machine needs a file, to go on with it; save the job")
    console = Console(soft_wrap=True)
    members = on_this_machine(
        expand(read_job(options.file), options.settings), nodes=options.nodes, gpus=options.gpus
    )
    uploads = [parse_upload(text) for text in options.uploads]
    state = State(options.state)
    command = _again(options)
    runs = LocalSweep(members, state, uploads, command, console).run()
    results = local_results(members, runs)
    name = members[0].job.metadata.labels[SWEEP_LABEL]
    with Storage(StorageSettings()) as storage:  # grids were copied to this machine
        _show(name, results, storage, state.folder / f"{name}-sweep.html", console)
    if all(result.phase == "Succeeded" for result in results):
        return 0
    print_text(console, f"go on with: {command}")
    return 1


def _again(options: SweepOptions) -> str:
    """The command line that goes on with the sweep; files are uploaded already."""
    arguments = ["sweep", "-f", str(options.file)]
    for text in options.settings:
        arguments += ["--set", text]
    state = None if options.state == DEFAULT_STATE else options.state
    given = (("--state", state), ("--nodes", options.nodes), ("--gpus", options.gpus))
    for option, value in given:
        if value is not None:
            arguments += [option, str(value)]
    return command_line(*arguments)
