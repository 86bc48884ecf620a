"""The command line `dreambooth`.

Each command is a module of its name, imported when the command is called: `validate` should not
have to wait for boto3.
"""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from dreambooth_operator.cli.options import (
    RUN_EXIT_CODES,
    Gpus,
    JobFile,
    JobName,
    Nodes,
    StateFolder,
    Uploads,
    examples,
)
from dreambooth_operator.cli.terminal.program import NAME
from dreambooth_operator.cli.use.commands import app as result_commands
from dreambooth_operator.errors import USAGE_EXIT_CODE, UserError
from dreambooth_operator.local.state import DEFAULT_STATE
from dreambooth_storage import StorageError

app = typer.Typer(
    name="dreambooth",
    help="Teach a diffusion model your subject: check, render and run DreamBoothJobs.",
    no_args_is_help=True,
    epilog=f"Complete names and options in your shell: {NAME} --install-completion",
    # Its tracebacks print local variables, which may hold credentials.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


@app.command(
    epilog=examples(
        "init photos/mug",
        "init photos/mug --class mug --model s3://models/sd15 --output s3://bucket/results",
    )
)
def init(
    photos: Annotated[
        Path, typer.Argument(help="Folder of 3 to 5 photos of the subject.", show_default=False)
    ],
    file: Annotated[Path, typer.Option("--file", "-f", help="File to write.")] = Path("job.yaml"),
    name: Annotated[
        str | None, typer.Option(help="Name of the job. Default: that of the folder.")
    ] = None,
    class_noun: Annotated[
        str | None, typer.Option("--class", help="What the photos show, such as mug or dog.")
    ] = None,
    identifier: Annotated[
        str | None, typer.Option(help="Rare word that will mean the subject. Default: sks.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Base model: hf://owner/name, s3://bucket/folder or a path.")
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="Folder of the results: s3://bucket/folder or a path.")
    ] = None,
    method: Annotated[str, typer.Option(help="lora or full.")] = "lora",
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
) -> None:
    """Write a job file for a folder of photos; ask for missing values."""
    from dreambooth_operator.cli.init import InitOptions, init

    init(InitOptions(photos, file, name, class_noun, identifier, model, output, method, force))


@app.command(epilog=examples("validate job.yaml other.yaml", "validate - < job.yaml"))
def validate(
    files: Annotated[
        list[Path],
        typer.Argument(help="Job files (YAML); - is standard input.", show_default=False),
    ],
) -> None:
    """Check job files and list every problem."""
    from dreambooth_operator.cli.validate import validate

    raise typer.Exit(validate(files))


@app.command(
    epilog=examples("render job.yaml", "render job.yaml | kubectl apply --dry-run=server -f -")
)
def render(
    file: JobFile,
    attempt: Annotated[int, typer.Option(min=0, help="Number of the attempt.")] = 0,
    image: Annotated[
        str | None, typer.Option(help="Trainer image of jobs that name none.", show_default=False)
    ] = None,
) -> None:
    """Print the Kubernetes objects of one attempt and of its preflight check."""
    from dreambooth_operator.cli.render import render

    render(file, attempt, image)


@app.command(
    epilog=examples(
        "run job.yaml --upload photos/mug=s3://bucket/mug",
        "run job.yaml --nodes 1 --gpus 0",
        "run job.yaml --resume",
        exit_codes=RUN_EXIT_CODES,
    )
)
def run(
    job: Annotated[
        Path | None,
        typer.Argument(help="Job file (YAML); - is standard input.", show_default=False),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="Job file (YAML), as an option.", show_default=False),
    ] = None,
    upload: Uploads = None,
    state: StateFolder = DEFAULT_STATE,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="First delete all runs in the state folder, with results."),
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Resume this job's last run.")] = False,
    nodes: Nodes = None,
    gpus: Gpus = None,
) -> None:
    """Run a job on this machine: its pods as processes, with an S3 server when it names none."""
    path = _one_file(job, file)
    if path is None:
        raise UserError("name one job file, for example: dreambooth run job.yaml")
    if fresh and resume:
        raise UserError("--fresh and --resume: use one; --fresh deletes what --resume needs")
    from dreambooth_operator.cli.run import RunOptions, run

    raise typer.Exit(run(RunOptions(path, tuple(upload or ()), state, fresh, resume, nodes, gpus)))


@app.command(
    epilog=examples(
        "sweep -f job.yaml --set training.learningRate=1e-4,5e-5 --set training.lora.rank=8,32",
        "sweep -f job.yaml --set training.steps=200,400 --render | kubectl apply -f -",
        "sweep --jobs jobs.yaml",
        exit_codes="Exit codes: 0 all jobs have succeeded; 1 not all; "
        f"{USAGE_EXIT_CODE} wrong usage, or a job that is not valid: nothing has run.",
    )
)
def sweep(
    job: Annotated[Path | None, typer.Argument(help="Job file (YAML).", show_default=False)] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="Job file (YAML), as an option.", show_default=False),
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE,...",
            help="A field of the spec and its values; repeat it for each field.",
        ),
    ] = None,
    render: Annotated[
        bool, typer.Option("--render", help="Only print the jobs, for kubectl apply.")
    ] = False,
    jobs: Annotated[
        Path | None,
        typer.Option(
            help="Only show the jobs that kubectl get -o yaml has listed in a file, or - .",
            show_default=False,
        ),
    ] = None,
    upload: Uploads = None,
    state: StateFolder = DEFAULT_STATE,
    nodes: Nodes = None,
    gpus: Gpus = None,
) -> None:
    """Run a job once for each combination of values, and compare the results."""
    from dreambooth_operator.cli.sweep.command import SweepOptions, render_jobs, run_jobs, show_jobs

    path = _one_file(job, file)
    if jobs:
        if path or values or render:
            raise UserError(
                f"--jobs {jobs} shows jobs that are there; leave out the job file, --set, --render"
            )
        show_jobs(jobs)
    elif path is None or not values:
        raise UserError(
            "name a job file and values: dreambooth sweep job.yaml --set FIELD=VALUE,..."
        )
    elif render:
        render_jobs(path, values)
    else:
        options = SweepOptions(path, tuple(values), tuple(upload or ()), state, nodes, gpus)
        raise typer.Exit(run_jobs(options))


def _one_file(job: Path | None, file: Path | None) -> Path | None:
    """The job file, which is named as an argument or by --file."""
    if job and file:
        raise UserError(f"{job} and --file {file}: name one job file")
    return job or file


@app.command("list", epilog=examples("list"))
def list_runs(state: StateFolder = DEFAULT_STATE) -> None:
    """List the runs on this machine, the newest first."""
    from dreambooth_operator.cli.listing import print_runs

    print_runs(state)


@app.command(epilog=examples("logs my-mug", "logs my-mug --pod 1 --follow"))
def logs(
    job: JobName,
    pod: Annotated[int, typer.Option(min=0, help="Index of the pod.")] = 0,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep printing until the run ends.")
    ] = False,
    state: StateFolder = DEFAULT_STATE,
) -> None:
    """Print the log of a pod of a job's newest run."""
    from dreambooth_operator.cli.logs import print_log

    print_log(job, pod, follow, state)


app.add_typer(result_commands)


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
        app(prog_name=NAME)
    except OSError as error:
        # Without the number, which Python puts first.
        where = f"{error.filename}: " if error.filename is not None else ""
        _fail(f"{where}{error.strerror or error}")
    except (UserError, StorageError) as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    sys.exit(USAGE_EXIT_CODE)
