"""Settings whose default has changed: a run that has begun keeps what it began with.

Jobs and runs of earlier versions do not name them. The API server fills in the default of today
when it reads an old job, and so do the models when they read an old run.json.
"""

from collections.abc import Mapping
from typing import Any

from dreambooth_api.models.job import DreamBoothJob, output_layout
from dreambooth_storage import Storage
from dreambooth_trainer.resume.run_record import read_run_record

PRIOR = {"target": "noise", "emptyPromptFraction": 0.0, "weight": 1.0}
"""Of `spec.prior`: the loss of Ruiz et al. 2022, equation 2."""

KEPT = "spec.prior.target: this run began with noise, and goes on with it"


def with_former_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """A job of run.json, with what it was trained with where it does not say."""
    spec = config["spec"]
    return {**config, "spec": {**spec, "prior": {**PRIOR, **spec.get("prior", {})}}}


def keep_former_defaults(job: DreamBoothJob, storage: Storage) -> DreamBoothJob:
    """The job with the prior loss that its run began with, if it has begun.

    Raises:
        StorageError: run.json cannot be read.
    """
    record = read_run_record(storage, output_layout(job))
    if record is None:
        return job
    prior = job.spec.prior
    # Not whether run.json names the field: the attempts after an upgrade write it again.
    began = with_former_defaults(record["job"])["spec"]["prior"]
    if began["target"] == "noise" and prior.target != "noise":
        # The fraction is noise's own, and so is the weight unless the job names one.
        kept = {"target": "noise", "empty_prompt_fraction": float(began["emptyPromptFraction"])}
    elif began["target"] == prior.target and prior.empty_prompt_fraction is None:
        kept = {"empty_prompt_fraction": float(began["emptyPromptFraction"])}
    else:
        kept = {}
    if began["target"] in ("noise", prior.target) and prior.weight is None:
        kept["weight"] = float(began["weight"])
    prior = prior.model_copy(update=kept)
    return job.model_copy(update={"spec": job.spec.model_copy(update={"prior": prior})})
