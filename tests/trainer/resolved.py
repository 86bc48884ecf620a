"""Jobs and settings with the defaults of Stable Diffusion 1.5, as preflight fills them in."""

from collections.abc import Callable
from typing import Any

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_trainer.models.defaults import fill_defaults
from dreambooth_trainer.models.families.stable_diffusion import DEFAULTS
from dreambooth_trainer.resolved_job import ResolvedJob, ResolvedTraining


def resolve(job: dict[str, Any]) -> ResolvedJob:
    return fill_defaults(DreamBoothJob.model_validate(job), DEFAULTS)


def job_with(**sections: Any) -> dict[str, Any]:
    """A job of one subject, with these sections in place of its spec's."""
    return {
        "apiVersion": "dreambooth.dev/v1alpha1",
        "kind": "DreamBoothJob",
        "metadata": {"name": "test"},
        "spec": {
            "model": {"source": "/model"},
            "subjects": [{"identifier": "sks", "classNoun": "mug", "images": "s3://b/mug"}],
            "output": "file:///out",
            **sections,
        },
    }


def resolve_job(
    training: dict[str, Any], flow_shift: Callable[[int], float | None] = lambda _resolution: None
) -> ResolvedJob:
    """A job with these settings of training."""
    job = DreamBoothJob.model_validate(job_with(training=training))
    return fill_defaults(job, DEFAULTS, flow_shift)


def resolve_training(
    training: dict[str, Any], flow_shift: Callable[[int], float | None] = lambda _resolution: None
) -> ResolvedTraining:
    """`spec.training` of such a job."""
    return resolve_job(training, flow_shift).spec.training
