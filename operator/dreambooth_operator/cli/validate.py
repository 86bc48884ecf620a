"""`dreambooth validate`: checks job files without a cluster or a network."""

import sys
from pathlib import Path

from dreambooth_api.parsing.warnings.advice import cluster_warnings, warnings
from dreambooth_operator.cli.job_file import read_job
from dreambooth_operator.errors import USAGE_EXIT_CODE, UserError


def validate(files: list[Path]) -> int:
    """Check job files and print a line for each file and problem.

    Returns the exit code: 0 when all files are valid, else `USAGE_EXIT_CODE`.
    """
    return max([_validate(path) for path in files], default=0)


def _validate(path: Path) -> int:
    try:
        job = read_job(path)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return USAGE_EXIT_CODE
    for warning in warnings(job):
        sys.stderr.write(f"{path}: warning: {warning}\n")
    # The job is valid on this machine: a note.
    for note in cluster_warnings(job):
        sys.stderr.write(f"{path}: note: {note}\n")
    sys.stdout.write(f"{path}: valid\n")
    return 0
