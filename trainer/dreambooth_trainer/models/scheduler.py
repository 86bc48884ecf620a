"""The noise schedule that a model was trained with, from its scheduler's configuration."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import diffusers
from diffusers import SchedulerMixin

from dreambooth_trainer.models.family import PREDICTION_TYPES
from dreambooth_trainer.models.source.model_files import ModelFiles
from dreambooth_trainer.process.errors import BadModelError

SCHEDULER_CONFIG = "scheduler/scheduler_config.json"
OBJECTIVES = {"ddpm": "denoising diffusion", "flow": "flow matching"}


def _is_flow_matching(scheduler: Any) -> bool:
    # Samplers of other kinds can also be configured for flow matching, as Sana's is.
    config = scheduler.config
    return "FlowMatch" in type(scheduler).__name__ or bool(config.get("use_flow_sigmas"))


_HAS_SCHEDULE: Mapping[str, Callable[[Any], bool]] = {
    "ddpm": lambda scheduler: hasattr(scheduler, "alphas_cumprod"),
    "flow": _is_flow_matching,
}


def load_scheduler(files: ModelFiles, objective: Literal["ddpm", "flow"]) -> Any:
    """The scheduler that model_index.json names, for a model of this objective.

    Raises:
        BadModelError: It cannot be built, or is of a kind that cannot be trained.
    """
    entry = files.json("model_index.json").get("scheduler")
    config = files.json(SCHEDULER_CONFIG)
    prediction = config.get("prediction_type", "epsilon")
    if objective == "ddpm" and prediction not in PREDICTION_TYPES:
        raise BadModelError(
            f"{files.field}: {files.source} predicts {prediction!r};"
            f" only {' and '.join(PREDICTION_TYPES)} can be trained"
        )
    library, name = entry if isinstance(entry, list) and len(entry) == 2 else (None, entry)
    scheduler_class = getattr(diffusers, str(name), None) if library == "diffusers" else None
    subject = f"{files.field}: the scheduler {name} of {files.source}"
    try:
        with warnings.catch_warnings():
            # diffusers converts tensors to arrays in a way that numpy 2 deprecates.
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
            scheduler = scheduler_class.from_config(dict(config))  # type: ignore[union-attr]
    except ImportError as error:
        raise BadModelError(
            f"{subject} needs a library that is not installed, such as scipy;"
            " name DDIMScheduler in model_index.json and remove the use_..._sigmas from"
            f" {SCHEDULER_CONFIG}"
        ) from error
    except Exception as error:  # unknown classes and damaged files raise anything
        raise BadModelError(
            f"{subject} cannot be built from {SCHEDULER_CONFIG}"
            f" ({' '.join(str(error).split())[:200]}); copy it again"
        ) from error
    if not isinstance(scheduler, SchedulerMixin) or not _HAS_SCHEDULE[objective](scheduler):
        raise BadModelError(
            f"{subject} has no schedule of noise levels over timesteps of the kind"
            f" that this model is trained with ({OBJECTIVES[objective]})"
        )
    return scheduler
