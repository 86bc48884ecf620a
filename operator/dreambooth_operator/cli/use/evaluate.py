"""`dreambooth evaluate`: scores the result of a run by a protocol, on this machine."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from dreambooth_api.contract.layout import EvaluationProtocol
from dreambooth_api.contract.scores import Scores, UnreadableScoresError
from dreambooth_api.models.job import DreamBoothJob, output_layout
from dreambooth_operator.cli.base_model import with_base
from dreambooth_operator.cli.find import find_recorded, find_result
from dreambooth_operator.cli.job_file import check_job, read_job
from dreambooth_operator.cli.results import newest_run_uid
from dreambooth_operator.cli.run import with_ranks
from dreambooth_operator.cli.terminal.end import print_entry
from dreambooth_operator.cli.terminal.scores import score_tables
from dreambooth_operator.cli.use.trainer_command import run_on_result
from dreambooth_operator.errors import UserError
from dreambooth_operator.local.host import check_fits
from dreambooth_operator.local.state import State
from dreambooth_operator.local.storage import LocalStorage, storage_for


@dataclass(frozen=True)
class EvaluateOptions:
    """The options of `dreambooth evaluate`, as they were given."""

    result: str
    protocol: EvaluationProtocol
    base: str | None
    state: Path
    nodes: int | None
    gpus: int | None


def evaluate(options: EvaluateOptions) -> int:
    """Score a result; returns the exit code: 0, or the trainer's (`ExitCode`).

    Raises:
        UserError: There is no such result, or no model at `--base`; it does not fit on this
            machine, or another process uses the state folder.
        StorageError: It cannot be read.
    """
    console = Console(soft_wrap=True)
    state = State(options.state)
    job, embedded = _find(options.result, state)
    job = with_ranks(job, nodes=options.nodes, gpus=options.gpus, trains=False)
    if options.base is not None:
        job = _with_base(job, options.base)
    check_fits(job)
    with state.locked(), storage_for(job, state, embedded) as storage:
        storage.job.metadata.uid = job.metadata.uid or newest_run_uid(storage.client, job)
        return _evaluate(storage, options, state, console)


def _find(result: str, state: State) -> tuple[DreamBoothJob, bool]:
    """The job of the result, and whether it is in the embedded storage."""
    found = find_result(result, state)
    if isinstance(found, str):
        return _find_recorded(found, state)
    job, embedded = found
    file = Path(result)
    if file.is_file() and (evaluation := read_job(file).spec.evaluation) is not None:
        # A result may be scored by other encoders than those of its training.
        job.spec.evaluation = evaluation
    return job, embedded


def _find_recorded(root: str, state: State) -> tuple[DreamBoothJob, bool]:
    """As `find_recorded`, with the run's folder as the output of its job."""
    job, embedded = find_recorded(root, state)
    tail = output_layout(job).root.removeprefix(job.spec.output.rstrip("/"))
    if not root.endswith(tail):
        raise UserError(f"{root}: the folder of this run must end in {tail}, as it was written")
    job.spec.output = root.removesuffix(tail)
    return job, embedded


def _with_base(job: DreamBoothJob, base: str) -> DreamBoothJob:
    document = job.model_dump(mode="json", by_alias=True, exclude_unset=True)
    document["spec"]["model"] = with_base(document["spec"]["model"], base)
    return check_job(document, "the job with --base", check_rules=False)


def _evaluate(
    storage: LocalStorage, options: EvaluateOptions, state: State, console: Console
) -> int:
    name = f"{storage.job.metadata.name}-{options.protocol}"
    code = run_on_result(
        storage,
        state.folder / "evaluations" / name,
        ["--protocol", options.protocol],
        console,
        stopped=lambda: "images are kept; the same command goes on from there",
    )
    if code:
        return code
    uri = output_layout(storage.job).protocol_scores(options.protocol)
    try:
        scores = Scores.decode(storage.client.read(uri))
    except UnreadableScoresError as error:
        raise UserError(f"{uri}: {error}") from error
    print_entry(console, "scores", uri)
    for table in score_tables(scores):
        console.print(table)
    return 0
