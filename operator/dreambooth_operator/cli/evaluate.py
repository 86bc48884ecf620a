"""`dreambooth evaluate`: scores the result of a run by a protocol, on this machine."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from dreambooth_api.contract.exit_codes import ExitCode
from dreambooth_api.contract.layout import EvaluationProtocol, OutputLayout
from dreambooth_api.contract.scores import Scores, UnreadableScoresError
from dreambooth_api.models.job import DreamBoothJob, output_layout
from dreambooth_api.parsing.other_versions import with_known_fields
from dreambooth_operator.cli.find import find_result
from dreambooth_operator.cli.job_file import check_job
from dreambooth_operator.cli.results import newest_run_uid
from dreambooth_operator.cli.run import with_ranks
from dreambooth_operator.cli.terminal.end import print_entry, print_text
from dreambooth_operator.cli.terminal.scores import score_tables
from dreambooth_operator.cli.terminal.screen import screen_for
from dreambooth_operator.errors import UserError
from dreambooth_operator.local.evaluate import evaluate_result
from dreambooth_operator.local.host import check_fits
from dreambooth_operator.local.runner import stop_on_signals
from dreambooth_operator.local.state import State
from dreambooth_operator.local.storage import (
    TRANSFER_POLICY,
    LocalStorage,
    storage_for,
    with_endpoint,
)
from dreambooth_storage import ObjectNotFoundError, Storage, StorageSettings

FAILURE_LOG_LINES = 15


@dataclass(frozen=True)
class EvaluateOptions:
    """The options of `dreambooth evaluate`, as they were given."""

    result: str
    protocol: EvaluationProtocol
    state: Path
    nodes: int | None
    gpus: int | None


def evaluate(options: EvaluateOptions) -> int:
    """Score a result; returns the exit code: 0, or the trainer's (`ExitCode`).

    Raises:
        UserError: There is no such result, it does not fit on this machine, or another process
            uses the state folder.
        StorageError: It cannot be read.
    """
    console = Console(soft_wrap=True)
    state = State(options.state)
    job, embedded = _find(options.result, state)
    job = with_ranks(job, nodes=options.nodes, gpus=options.gpus)
    check_fits(job)
    with state.locked(), storage_for(job, state, embedded) as storage:
        storage.job.metadata.uid = job.metadata.uid or newest_run_uid(storage.client, job)
        return _evaluate(storage, options, state, console)


def _find(result: str, state: State) -> tuple[DreamBoothJob, bool]:
    """The job of the result, and whether it is in the embedded storage."""
    found = find_result(result, state)
    return (_read_job(found), False) if isinstance(found, str) else found


def _read_job(root: str) -> DreamBoothJob:
    """The job in run.json of a run's folder, with that folder as its output."""
    layout = OutputLayout(root)
    with Storage(StorageSettings(), policy=TRANSFER_POLICY) as client:
        try:
            document = json.loads(client.read(layout.run_record))["job"]
        except ObjectNotFoundError as error:
            raise UserError(f"{root}: no run.json there; name the folder of a run") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"{layout.run_record}: is no record of a run; name the folder of a run"
            ) from error
    known = with_known_fields(document)
    if known != document:
        sys.stderr.write(
            f"warning: {layout.run_record}: is of another version of dreambooth; fields that this"
            " one does not know are ignored\n"
        )
    job = check_job(known, f"the job in {layout.run_record}")
    tail = output_layout(job).root.removeprefix(job.spec.output.rstrip("/"))
    if not root.endswith(tail):
        raise UserError(f"{root}: the folder of this run must end in {tail}, as it was written")
    job.spec.output = root.removesuffix(tail)
    return with_endpoint(job, os.environ)


def _evaluate(
    storage: LocalStorage, options: EvaluateOptions, state: State, console: Console
) -> int:
    layout = output_layout(storage.job)
    name = f"{storage.job.metadata.name}-{options.protocol}"
    folder = state.folder / "evaluations" / name
    folder.mkdir(parents=True, exist_ok=True)
    print_entry(console, "logs", f"{folder}/pod-*.log")
    screen = screen_for(console)
    with stop_on_signals() as stop:
        try:
            failed = evaluate_result(storage, folder, options.protocol, stop, screen)
        finally:
            screen.close()
    uri = layout.protocol_scores(options.protocol)
    if failed is not None:
        pod, end = failed
        if stop.requested:
            print_text(console, "stopped: images are kept; the same command goes on from there")
        else:
            print_text(console, f"FAILED with exit code {end.exit_code}", style="bold red")
            message = end.termination.message or "\n".join(pod.last_lines(FAILURE_LOG_LINES))
            print_text(console, message)
        return end.exit_code or ExitCode.ERROR
    try:
        scores = Scores.decode(storage.client.read(uri))
    except UnreadableScoresError as error:
        raise UserError(f"{uri}: {error}") from error
    print_entry(console, "scores", uri)
    for table in score_tables(scores):
        console.print(table)
    return 0
