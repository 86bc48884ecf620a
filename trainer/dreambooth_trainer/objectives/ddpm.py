"""The DreamBooth loss: noise prediction on the subject plus weighted noise prediction on the
class.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Losses:
    """Scalars: `total` = `subject` + prior weight x `prior`."""

    total: Tensor
    subject: Tensor
    prior: Tensor


def signal_to_noise(alphas_cumprod: Tensor) -> Tensor:
    """SNR of every timestep, [T]: the ratio of squared signal and noise (Hang et al. 2023,
    section 3.1).
    """
    return alphas_cumprod / (1 - alphas_cumprod)


def min_snr_weights(snr: Tensor, gamma: float, prediction: str) -> Tensor:
    """Min-SNR weight of each timestep, [T] (Hang et al. 2023, equation 5).

    The paper's min(SNR, gamma) weighs the loss on x0. On epsilon that is divided by SNR, on v by
    SNR + 1.
    """
    clipped = snr.clamp(max=gamma)
    return clipped / snr if prediction == "epsilon" else clipped / (snr + 1)


def dreambooth_loss(
    prediction: Tensor, target: Tensor, weights: Tensor | None, prior_weight: float | None
) -> Losses:
    """MSE per half of the batch (Ruiz et al. 2022, equation 2).

    prediction, target: [2B, C, h, w], the subject's half first; [B, C, h, w] when `prior_weight`
    is None. weights: [2B] or [B], each sample's own timestep weight, or None.
    """
    each = (prediction.float() - target.float()).square().mean(dim=(1, 2, 3))
    if weights is not None:
        each = each * weights
    if prior_weight is None:
        subject = each.mean()
        return Losses(subject, subject, torch.zeros_like(subject))
    half_subject, half_prior = each.chunk(2)
    subject, prior = half_subject.mean(), half_prior.mean()
    return Losses(subject + prior_weight * prior, subject, prior)
