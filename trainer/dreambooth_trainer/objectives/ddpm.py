"""The DreamBooth loss on a denoising diffusion model (Ho et al. 2020).

Noise prediction on the subject plus weighted noise prediction on the class, the prior preservation
of Ruiz et al. 2022, section 3.3.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


class DDPMObjective:
    """The denoiser's input and target, and the loss weight of each timestep.

    Args:
        alphas_cumprod: Cumulative signal of every training timestep, [T] (Ho et al. 2020, section
            2).
        prediction_type: `epsilon` or `v_prediction`.
        min_snr_gamma: Gamma of Min-SNR weighting (Hang et al. 2023); None: equal weights.
    """

    def __init__(
        self, alphas_cumprod: Tensor, prediction_type: str, min_snr_gamma: float | None
    ) -> None:
        self.timesteps = len(alphas_cumprod)
        self._predicts_v = prediction_type == "v_prediction"
        # Tables on the device: looking a timestep up there does not wait for the host.
        self._signal = alphas_cumprod.sqrt()
        self._sigma = (1 - alphas_cumprod).sqrt()
        self._weights = None
        if min_snr_gamma is not None:
            snr = signal_to_noise(alphas_cumprod)
            self._weights = min_snr_weights(snr, min_snr_gamma, prediction_type)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noisy latents [N, C, h, w] at timesteps [N] (Ho et al. 2020, equation 4)."""
        signal, sigma = self._scales(timesteps)
        return signal * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the denoiser should predict, [N, C, h, w].

        The noise (epsilon), or v = signal * noise - sigma * latents (Salimans & Ho 2022, appendix
        D).
        """
        if not self._predicts_v:
            return noise
        signal, sigma = self._scales(timesteps)
        return signal * noise - sigma * latents

    def weights(self, timesteps: Tensor) -> Tensor | None:
        """Loss weight of each sample, [N], by `min_snr_weights`; None: equal weights."""
        return None if self._weights is None else self._weights[timesteps]

    def _scales(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Scales of signal and noise, [N, 1, 1, 1] each."""
        shape = (-1, 1, 1, 1)
        return self._signal[timesteps].view(shape), self._sigma[timesteps].view(shape)


def signal_to_noise(alphas_cumprod: Tensor) -> Tensor:
    """Signal-to-noise ratio of every timestep, [T] (Hang et al. 2023, section 3.1)."""
    return alphas_cumprod / (1 - alphas_cumprod)


def min_snr_weights(snr: Tensor, gamma: float, prediction_type: str) -> Tensor:
    """Min-SNR weight of each timestep, [T] (Hang et al. 2023, equation 5).

    The paper's min(SNR, gamma) weighs the loss on x0. On epsilon that is divided by SNR, on v by
    SNR + 1. A timestep without signal (zero terminal SNR, Lin et al. 2023) has weight 1: the
    formula would give 0 / 0 on epsilon, and would never train v there.
    """
    divisor = snr if prediction_type == "epsilon" else snr + 1
    return torch.where(snr > 0, snr.clamp(max=gamma) / divisor, 1.0)


@dataclass(frozen=True)
class Losses:
    """Scalars: `total` = `subject` + prior weight x `prior` (Ruiz et al. 2022, equation 2)."""

    total: Tensor
    subject: Tensor
    prior: Tensor


def dreambooth_loss(
    prediction: Tensor, target: Tensor, weights: Tensor | None, prior_weight: float | None
) -> Losses:
    """Mean squared error of each half of the batch (Ruiz et al. 2022, equation 2).

    Args:
        prediction: [2B, C, h, w], the subject's half first; [B, C, h, w] without class samples.
        target: As `prediction`.
        weights: [2B] or [B], the weight of each sample's own timestep; None: equal weights.
        prior_weight: Lambda of the paper; None without class samples.
    """
    # In fp32: half precision would round the sum over thousands of squares.
    each = (prediction.float() - target.float()).square().mean(dim=(1, 2, 3))
    if weights is not None:
        each = each * weights
    if prior_weight is None:
        subject = each.mean()
        return Losses(subject, subject, torch.zeros_like(subject))
    # A mean for each half, not over all: their ratio does not depend on the batch size.
    subject_half, prior_half = each.chunk(2)
    subject, prior = subject_half.mean(), prior_half.mean()
    return Losses(subject + prior_weight * prior, subject, prior)
