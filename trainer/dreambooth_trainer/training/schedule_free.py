"""The weights that a schedule-free optimizer exports: not those that it trains."""

from collections.abc import Mapping

import torch
from torch import Tensor

from dreambooth_api.models.optimizer import OPTIMIZER_DEFAULTS, Optimizer


def schedule_free_average(
    weights: Mapping[str, Tensor], steps: Mapping[str, Tensor], settings: Optimizer
) -> dict[str, Tensor]:
    """The average x of y = (1 - beta1) z + beta1 x (Defazio et al. 2024, equation 3).

    The optimizer's own switch between y and x rounds: a training would go on with other weights
    after each sample.

    Args:
        weights: y by name, which the gradient is taken at.
        steps: z by name, which the steps are taken from; on the same device.
        settings: `spec.training.optimizer`.
    """
    beta1 = settings.beta1 or OPTIMIZER_DEFAULTS[settings.name]["beta1"]
    return {name: torch.lerp(y.detach(), steps[name], 1 - 1 / beta1) for name, y in weights.items()}
