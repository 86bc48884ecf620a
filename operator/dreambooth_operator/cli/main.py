"""`dreambooth`: check, render and run DreamBoothJobs. Only wiring; the work is elsewhere."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from dreambooth_operator.errors import UserError
from dreambooth_operator.local.seaweed import SeaweedError
from dreambooth_storage import StorageError

USAGE_EXIT_CODE = 2
STATE = Path(".dreambooth")

app = typer.Typer(
    name="dreambooth",
    help="Teach a diffusion model your subject: check, render and run DreamBoothJobs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

JobFile = Annotated[Path, typer.Argument(help="Job file (YAML).", show_default=False)]
StateFolder = Annotated[Path, typer.Option("--state", help="Folder of local runs.")]


@app.command()
def validate(
    files: Annotated[list[Path], typer.Argument(help="Job files (YAML).", show_default=False)],
) -> None:
    """Check job files; lists every problem."""
    from dreambooth_operator.cli import commands

    raise typer.Exit(commands.validate(files))


@app.command()
def render(
    file: JobFile,
    attempt: Annotated[int, typer.Option(min=0, help="Number of the attempt.")] = 0,
    image: Annotated[str, typer.Option(help="Trainer image of jobs that name none.")] = "",
) -> None:
    """Print the Kubernetes objects of one attempt and of its preflight check."""
    from dreambooth_operator.cli import commands

    sys.stdout.write(commands.render(file, attempt, image))


@app.command()
def run(
    file: Annotated[
        Path, typer.Option("--file", "-f", help="Job file (YAML).", show_default=False)
    ],
    upload: Annotated[
        list[str] | None,
        typer.Option(metavar="LOCAL=URI", help="Upload a folder first; may be repeated."),
    ] = None,
    state: StateFolder = STATE,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget all local runs and their storage first.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with this job's last run.")
    ] = False,
    nodes: Annotated[
        int | None, typer.Option(min=1, help="Pods, in place of runtime.nodes.")
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(min=0, help="GPUs per pod, in place of runtime.gpusPerNode.")
    ] = None,
) -> None:
    """Run a job on this machine: its pods as processes, with an S3 server when it names none."""
    if fresh and resume:
        raise UserError("--fresh and --resume: choose one; --fresh forgets what could be resumed")
    from dreambooth_operator.cli.run import RunOptions, run_file

    options = RunOptions(file, tuple(upload or ()), state, fresh, resume, nodes, gpus)
    raise typer.Exit(run_file(options))


@app.command()
def samples(
    job: Annotated[str, typer.Argument(help="Name of a job, or its file.", show_default=False)],
    to: Annotated[
        Path | None, typer.Option(help="Folder to write to. Default: <name>-samples.")
    ] = None,
    state: StateFolder = STATE,
) -> None:
    """Fetch the sample grids of a job's newest run."""
    from dreambooth_operator.cli import commands

    commands.samples(job, to, state)


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    typer.echo(installed("dreambooth-operator"))


def main() -> None:
    """Run the command line; what the user can put right is one message and exit code 2."""
    try:
        app()
    except (UserError, StorageError, SeaweedError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(USAGE_EXIT_CODE)
