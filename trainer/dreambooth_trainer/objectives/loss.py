"""The DreamBooth loss: the subject's error, and the class's for prior preservation.

Source: Ruiz et al. 2022, section 3.3.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Losses:
    """Scalars: `total` = `subject` + prior weight x `prior` (Ruiz et al. 2022, equation 2)."""

    total: Tensor
    subject: Tensor
    prior: Tensor


def dreambooth_loss(
    prediction: Tensor,
    target: Tensor,
    weights: Tensor | None,
    prior_weight: float | None,
    cell_weights: Tensor | None = None,
) -> Losses:
    """Mean squared error of each half of the batch (Ruiz et al. 2022, equation 2).

    Args:
        prediction: [2B, C, h, w], the subject's half first; [B, C, h, w] without class samples.
        target: As `prediction`.
        weights: [2B] or [B], the weight of each sample's own timestep; None: equal weights.
        prior_weight: Lambda of the paper; None without class samples.
        cell_weights: [2B, 1, h, w] or [B, 1, h, w], the weight of each cell; None: equal weights.
    """
    # In fp32: half precision would round the sum over thousands of squares.
    errors = (prediction.float() - target.float()).square()
    if cell_weights is not None:
        errors = errors * cell_weights
    each = errors.mean(dim=(1, 2, 3))
    if weights is not None:
        each = each * weights
    if prior_weight is None:
        subject = each.mean()
        return Losses(subject, subject, torch.zeros_like(subject))
    # A mean for each half, not over all: their ratio does not depend on the batch size.
    subject_half, prior_half = each.chunk(2)
    subject, prior = subject_half.mean(), prior_half.mean()
    return Losses(subject + prior_weight * prior, subject, prior)
