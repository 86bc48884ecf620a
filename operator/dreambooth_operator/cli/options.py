"""What several commands share: their arguments and options, and the end of their help."""

from pathlib import Path
from typing import Annotated

import typer

from dreambooth_api.contract.exit_codes import ExitCode
from dreambooth_operator.cli.terminal.program import NAME
from dreambooth_operator.errors import USAGE_EXIT_CODE
from dreambooth_operator.local.state import DEFAULT_STATE

JobFile = Annotated[
    Path, typer.Argument(help="Job file (YAML); - is standard input.", show_default=False)
]
StateFolder = Annotated[Path, typer.Option("--state", help="Folder of local runs.")]
Uploads = Annotated[
    list[str] | None,
    typer.Option(metavar="LOCAL=URI", help="Upload a file or folder first; repeatable."),
]
Nodes = Annotated[int | None, typer.Option(min=1, help="Number of pods, overrides runtime.nodes.")]
Gpus = Annotated[
    int | None, typer.Option(min=0, help="GPUs per pod, overrides runtime.gpusPerNode.")
]


RUN_EXIT_CODES = f"""\
Exit codes: 0 done; {USAGE_EXIT_CODE} wrong usage, or a job that is not valid; else the trainer's: \
{ExitCode.ERROR} failed, restarts used up; {ExitCode.BAD_CONFIG} job, {ExitCode.BAD_DATA} images, \
{ExitCode.BAD_MODEL} model, {ExitCode.STORAGE_DENIED} storage, {ExitCode.NOT_FINITE} loss not \
finite, {ExitCode.FENCED} output in use by a newer attempt; {ExitCode.STALLED} no progress; \
{ExitCode.OUT_OF_MEMORY} out of GPU memory; \
{ExitCode.STOPPED} stopped, after a checkpoint if training had begun."""
RESULT_EXIT_CODES = f"""\
Exit codes: 0 done; {USAGE_EXIT_CODE} wrong usage; else the trainer's: {ExitCode.ERROR} failed; \
{ExitCode.BAD_CONFIG} job or option, {ExitCode.BAD_DATA} images, {ExitCode.BAD_MODEL} model, \
{ExitCode.STORAGE_DENIED} storage; {ExitCode.OUT_OF_MEMORY} out of GPU memory; \
{ExitCode.STOPPED} stopped, the images so far are kept."""
EXIT_CODES = f"Exit codes: 0 done; {USAGE_EXIT_CODE} wrong usage, or a file that is not valid."


def examples(*arguments: str, exit_codes: str = EXIT_CODES) -> str:
    """The end of a command's help: a paragraph a line, as the others would be joined."""
    return "\n\n".join(["Examples:", *(f"  {NAME} {each}" for each in arguments), exit_codes])


def _run_names(context: typer.Context) -> list[str]:
    """The names of the jobs that ran here, for completion."""
    from dreambooth_operator.local.state import State

    state = State(Path(context.params.get("state") or DEFAULT_STATE))
    return sorted({run.job.metadata.name for run in state.runs()})


JobName = Annotated[
    str,
    typer.Argument(
        help="Name of a job that ran here, or its file.",
        show_default=False,
        autocompletion=_run_names,
    ),
]
Result = Annotated[
    str,
    typer.Argument(
        help="Name of a job that ran here, its file, or the folder of a run: a path or s3://...",
        show_default=False,
        autocompletion=_run_names,
    ),
]
