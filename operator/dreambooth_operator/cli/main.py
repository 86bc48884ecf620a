"""The command line `dreambooth`.

Each command is a module of its name, imported when the command is called: `validate` should not
have to wait for boto3.
"""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated

import typer

from dreambooth_operator.errors import USAGE_EXIT_CODE, UserError
from dreambooth_operator.local.state import DEFAULT_STATE
from dreambooth_storage import StorageError

app = typer.Typer(
    name="dreambooth",
    help="Teach a diffusion model your subject: check, render and run DreamBoothJobs.",
    no_args_is_help=True,
    add_completion=False,
    # Its tracebacks print local variables, which may hold credentials.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

JobFile = Annotated[Path, typer.Argument(help="Job file (YAML).", show_default=False)]
StateFolder = Annotated[Path, typer.Option("--state", help="Folder of local runs.")]


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(installed_version("dreambooth-operator"))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Teach a diffusion model your subject: check, render and run DreamBoothJobs."""


@app.command()
def validate(
    files: Annotated[list[Path], typer.Argument(help="Job files (YAML).", show_default=False)],
) -> None:
    """Check job files and list every problem."""
    from dreambooth_operator.cli.validate import validate

    raise typer.Exit(validate(files))


@app.command()
def render(
    file: JobFile,
    attempt: Annotated[int, typer.Option(min=0, help="Number of the attempt.")] = 0,
    image: Annotated[
        str | None, typer.Option(help="Trainer image of jobs that name none.", show_default=False)
    ] = None,
) -> None:
    """Print the Kubernetes objects of one attempt and of its preflight check."""
    from dreambooth_operator.cli.render import render

    sys.stdout.write(render(file, attempt, image))


@app.command()
def run(
    job: Annotated[Path | None, typer.Argument(help="Job file (YAML).", show_default=False)] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="Job file (YAML), as an option.", show_default=False),
    ] = None,
    upload: Annotated[
        list[str] | None,
        typer.Option(metavar="LOCAL=URI", help="Upload a file or folder first; repeatable."),
    ] = None,
    state: StateFolder = DEFAULT_STATE,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="First delete all runs in the state folder, with results."),
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Resume this job's last run.")] = False,
    nodes: Annotated[
        int | None, typer.Option(min=1, help="Number of pods, overrides runtime.nodes.")
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(min=0, help="GPUs per pod, overrides runtime.gpusPerNode.")
    ] = None,
) -> None:
    """Run a job on this machine: its pods as processes, with an S3 server when it names none."""
    if job and file:
        raise UserError(f"{job} and --file {file}: name one job file")
    path = job or file
    if path is None:
        raise UserError("name one job file, for example: dreambooth run job.yaml")
    if fresh and resume:
        raise UserError("--fresh and --resume: use one; --fresh deletes what --resume needs")
    from dreambooth_operator.cli.run import RunOptions, run

    raise typer.Exit(run(RunOptions(path, tuple(upload or ()), state, fresh, resume, nodes, gpus)))


@app.command()
def samples(
    job: Annotated[str, typer.Argument(help="Name of a job, or its file.", show_default=False)],
    to: Annotated[
        Path | None, typer.Option(help="Folder to write to. Default: <name>-samples.")
    ] = None,
    state: StateFolder = DEFAULT_STATE,
) -> None:
    """Fetch the sample grids of a job's newest run."""
    from dreambooth_operator.cli.samples import samples

    samples(job, to, state)


@app.command()
def version() -> None:
    """Print the version."""
    _print_version(True)


def main() -> None:
    """Run the command line.

    Raises:
        SystemExit: An error that the user can correct, printed as one message (exit code 2).
    """
    try:
        app()
    except (UserError, StorageError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(USAGE_EXIT_CODE)
