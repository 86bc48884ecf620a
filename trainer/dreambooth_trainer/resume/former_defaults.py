"""Settings whose default has changed: a run that has begun keeps what it began with.

Jobs and runs of earlier versions do not name them. The API server fills in the default of today
when it reads an old job, and so do the models when they read an old run.json.
"""

from collections.abc import Mapping
from typing import Any

from dreambooth_api.models.captioning import Captioning, CaptioningModel
from dreambooth_api.models.job import DreamBoothJob, output_layout
from dreambooth_api.models.optimizer import ScheduleName
from dreambooth_api.models.prior import Prior
from dreambooth_api.models.training import Training
from dreambooth_storage import Storage
from dreambooth_trainer.resume.run_record import read_run_record

PRIOR = {"target": "noise", "emptyPromptFraction": 0.0, "weight": 1.0}
"""Of `spec.prior`: the loss of Ruiz et al. 2022, equation 2."""

SCHEDULE: ScheduleName = "constant"
"""Of `spec.training.schedule.name`."""

KEPT = "spec.prior.target: this run began with noise, and goes on with it"


def with_former_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """A job of run.json, with what it was trained with where it does not say."""
    spec = config["spec"]
    return {**config, "spec": {**spec, "prior": {**PRIOR, **spec.get("prior", {})}}}


def keep_former_defaults(job: DreamBoothJob, storage: Storage) -> DreamBoothJob:
    """The job with the prior loss and the schedule that its run began with, if it has begun.

    Raises:
        StorageError: run.json cannot be read.
    """
    record = read_run_record(storage, output_layout(job))
    if record is None:
        return job
    began = with_former_defaults(record["job"])["spec"]
    kept = {
        "prior": _keep_prior(job.spec.prior, began["prior"]),
        "training": _keep_schedule(job.spec.training, began["training"]["schedule"]["name"]),
        "captioning": _keep_captioner(job.spec.captioning, began.get("captioning")),
    }
    return job.model_copy(update={"spec": job.spec.model_copy(update=kept)})


def _keep_prior(prior: Prior, began: Mapping[str, Any]) -> Prior:
    # Not whether run.json names the field: the attempts after an upgrade write it again.
    if began["target"] == "noise" and prior.target != "noise":
        # The fraction is noise's own, and so is the weight unless the job names one.
        kept = {"target": "noise", "empty_prompt_fraction": float(began["emptyPromptFraction"])}
    elif began["target"] == prior.target and prior.empty_prompt_fraction is None:
        kept = {"empty_prompt_fraction": float(began["emptyPromptFraction"])}
    else:
        kept = {}
    if began["target"] in ("noise", prior.target) and prior.weight is None:
        kept["weight"] = float(began["weight"])
    return prior.model_copy(update=kept)


def _keep_schedule(training: Training, began: ScheduleName) -> Training:
    is_open = training.schedule.name is None and training.schedule.decay_fraction is None
    # A name that was never the default was the job's own: to remove it is a change.
    if not is_open or began != SCHEDULE:
        return training
    schedule = training.schedule.model_copy(update={"name": SCHEDULE})
    return training.model_copy(update={"schedule": schedule})


def _keep_captioner(
    captioning: Captioning | None, began: Mapping[str, Any] | None
) -> Captioning | None:
    """With the model that was the default for every base model: another writes other captions."""
    if captioning is None or captioning.model or captioning.endpoint:
        return captioning
    if began is None or began.get("model") or began.get("endpoint"):
        return captioning
    return captioning.model_copy(update={"model": CaptioningModel()})
