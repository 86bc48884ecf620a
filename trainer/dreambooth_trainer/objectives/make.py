"""The objective that a base model is trained with."""

from typing import Protocol

import torch
from torch import Tensor

from dreambooth_trainer.objectives.ddpm import DDPMObjective
from dreambooth_trainer.objectives.flow_matching import FlowMatchingObjective, make_density
from dreambooth_trainer.objectives.objective import Objective, ObjectiveKind
from dreambooth_trainer.resolved_job import ResolvedTraining


class TrainableModel(Protocol):
    """A model family, as far as its objective depends on it."""

    @property
    def objective_kind(self) -> ObjectiveKind:
        """How it was trained."""

    @property
    def alphas_cumprod(self) -> Tensor:
        """Of DDPM models: cumulative signal of every timestep, [T] (Ho et al. 2020, section 2)."""

    @property
    def prediction_type(self) -> str:
        """Of DDPM models: `epsilon` (Ho et al. 2020) or `v_prediction` (Salimans & Ho 2022)."""


def make_objective(
    model: TrainableModel, training: ResolvedTraining, device: torch.device
) -> Objective:
    """The objective of a model, with the job's settings.

    Settings that the model's kind does not take are refused by preflight, and ignored here.

    Args:
        model: The family that is trained.
        training: `spec.training`.
        device: Of the latents.
    """
    if model.objective_kind == "ddpm":
        return DDPMObjective(
            model.alphas_cumprod.to(device), model.prediction_type, training.min_snr_gamma
        )
    sampling = training.timestep_sampling
    assert sampling is not None  # `fill_defaults` has filled it in
    return FlowMatchingObjective(make_density(sampling), sampling.shift, training.loss_weighting)
