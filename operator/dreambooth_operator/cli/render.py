"""`dreambooth render`: the Kubernetes objects that the operator creates for a job."""

from importlib.metadata import version
from pathlib import Path

from dreambooth_operator.cli.job_file import read_job
from dreambooth_operator.manifests.resources import attempt_objects, preflight_job
from dreambooth_operator.manifests.serialize import to_yaml


def render(file: Path, attempt: int, image: str | None) -> str:
    """The objects of one attempt and of the preflight check, as YAML documents.

    `image` is for jobs that name none; None takes the trainer image of this version.

    Raises:
        UserError: The file is not a valid job.
    """
    job = read_job(file)
    # The chart's default, without a registry: the output is to be read, or applied to a local
    # cluster.
    image = image or f"dreambooth-trainer:{version('dreambooth-operator')}"
    if job.spec.runtime.preflight.run_in == "FirstPod":
        return to_yaml(attempt_objects(job, attempt, image, preflight=attempt == 0))
    return to_yaml([*attempt_objects(job, attempt, image), preflight_job(job, image)])
