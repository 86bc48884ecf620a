"""Denoising diffusion (Ho et al. 2020): the denoiser predicts the noise, or v."""

import numpy as np
import torch
from torch import Tensor


class DDPMObjective:
    """The `Objective` of denoising diffusion; timesteps are indices from 0 (nearly clean) to T - 1.

    Args:
        alphas_cumprod: Cumulative signal of every training timestep, [T] (Ho et al. 2020, section
            2).
        prediction_type: `epsilon` or `v_prediction`.
        min_snr_gamma: Gamma of Min-SNR weighting (Hang et al. 2023); None: equal weights.
    """

    def __init__(
        self, alphas_cumprod: Tensor, prediction_type: str, min_snr_gamma: float | None
    ) -> None:
        self._timesteps = len(alphas_cumprod)
        self._predicts_v = prediction_type == "v_prediction"
        # Tables on the device: looking a timestep up there does not wait for the host.
        self._signal = alphas_cumprod.sqrt()
        self._sigma = (1 - alphas_cumprod).sqrt()
        self._weights = None
        if min_snr_gamma is not None:
            snr = signal_to_noise(alphas_cumprod)
            self._weights = min_snr_weights(snr, min_snr_gamma, prediction_type)

    @property
    def timestep_dtype(self) -> torch.dtype:
        """int64."""
        return torch.int64

    def draw_timestep(self, stream: np.random.Generator) -> int:
        """One of the T timesteps, each equally likely (Ho et al. 2020, algorithm 1)."""
        return int(stream.integers(self._timesteps))

    def even_timesteps(self, count: int) -> list[float]:
        """The timesteps in the middle of `count` equal parts of the T timesteps."""
        return [int((part + 0.5) / count * self._timesteps) for part in range(count)]

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
