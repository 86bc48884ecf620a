"""`dreambooth render`: the Kubernetes objects that the operator creates for a job."""

import sys
from importlib.metadata import version
from pathlib import Path

from dreambooth_api.parsing.warnings.advice import cluster_warnings
from dreambooth_operator.cli.job_file import read_job
from dreambooth_operator.manifests.resources import attempt_objects, preflight_job
from dreambooth_operator.manifests.serialize import to_yaml


def render(file: Path, attempt: int, image: str | None) -> None:
    """Print the objects of one attempt and of the preflight check, as YAML documents.

    `image` is for jobs that name none; None takes the trainer image of this version, without a
    registry. What no cluster can use is warned of on standard error.

    Raises:
        UserError: The file is not a valid job.
    """
    job = read_job(file)
    notes = cluster_warnings(job)
    if image is None and job.spec.runtime.image is None:
        image = f"dreambooth-trainer:{version('dreambooth-operator')}"
        notes.append(
            f"spec.runtime.image: {image} stands for the operator's image, and is in no registry;"
            " name yours with --image"
        )
    image = image or ""
    if job.spec.runtime.preflight.run_in == "FirstPod":
        objects = attempt_objects(job, attempt, image, preflight=attempt == 0)
    else:
        objects = [*attempt_objects(job, attempt, image), preflight_job(job, image)]
    for note in notes:
        sys.stderr.write(f"warning: {note}\n")
    sys.stdout.write(to_yaml(objects))
