"""Flow matching along straight lines (Lipman et al. 2023; Liu et al. 2023, rectified flow).

As in Stable Diffusion 3 (Esser et al. 2024, section 3). The timestep is sigma itself, the share of
noise in the latents: 0 is an image, 1 is noise alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from dreambooth_api.models.training import LossWeighting
from dreambooth_trainer.resolved_job import ResolvedTimestepSampling

Density = Callable[[float], float]
"""A density of sigma by its quantile function: it turns uniform numbers into draws."""

SMALLEST_SIGMA = 1e-6
"""Keeps sigma above 0 in float32."""
SMALLEST_WEIGHTED_SIGMA = 0.05
"""Bounds 1 / sigma^2 to 400: a sample near sigma = 0 would outweigh thousands of others."""


@dataclass(frozen=True)
class FlowMatchingObjective:
    """The `Objective` of flow matching; timesteps are sigma in (0, 1], float32.

    Args:
        density: Of sigma, before the shift.
        shift: Ratio of the odds of noise after and before the shift; 1 changes nothing.
        weighting: Of the loss, by sigma.
    """

    density: Density
    shift: float = 1.0
    weighting: LossWeighting = "none"

    @property
    def timestep_dtype(self) -> torch.dtype:
        """float32."""
        return torch.float32

    def draw_timestep(self, stream: np.random.Generator) -> float:
        """Sigma from the shifted density: one uniform number, whatever the density."""
        # Not 0, where the logit-normal density has no quantile.
        uniform = max(stream.random(), 2.0**-53)
        return min(max(shift_sigma(self.density(uniform), self.shift), SMALLEST_SIGMA), 1.0)

    def even_timesteps(self, count: int) -> list[float]:
        """The sigmas in the middle of `count` equal parts of 0..1, without density and shift."""
        return [(part + 0.5) / count for part in range(count)]

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The point at sigma on the line from latents to noise (Esser et al. 2024, equation 13)."""
        sigma = timesteps.view(-1, 1, 1, 1)
        return (1 - sigma) * latents + sigma * noise

    def target(
        self,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,  # noqa: ARG002 - other objectives need it
    ) -> Tensor:
        """The line's velocity, from latents to noise: the same at every sigma."""
        return noise - latents

    def weights(self, timesteps: Tensor) -> Tensor | None:
        """Loss weight of each sample, [N].

        `sigma-sqrt` is 1 / sigma^2, under the name that diffusers gives it; `cosmap` is equation 21
        of Esser et al. 2024.
        """
        if self.weighting == "none":
            return None
        if self.weighting == "sigma-sqrt":
            return timesteps.clamp(min=SMALLEST_WEIGHTED_SIGMA) ** -2
        return 2 / (math.pi * (1 - 2 * timesteps + 2 * timesteps**2))


def shift_sigma(sigma: float, shift: float) -> float:
    """Sigma with `shift` times the odds of noise (Esser et al. 2024, equation 23).

    Larger images need more noise to hide the same detail. A shift by resolution is exp(mu).
    """
    return shift * sigma / (1 + (shift - 1) * sigma)


def make_density(sampling: ResolvedTimestepSampling) -> Density:
    """The density of sigma, before the shift."""
    if sampling.density == "uniform":
        return lambda uniform: uniform
    if sampling.density == "mode":
        assert sampling.mode_scale is not None  # `fill_defaults` has filled these in
        return mode(sampling.mode_scale)
    assert sampling.mean is not None
    assert sampling.std is not None
    return logit_normal(sampling.mean, sampling.std)


def logit_normal(mean: float, std: float) -> Density:
    """A normal distribution of log(sigma / (1 - sigma)) (Esser et al. 2024, equation 19)."""
    normal = NormalDist(mean, std)
    return lambda uniform: 1 / (1 + math.exp(-normal.inv_cdf(uniform)))


def mode(scale: float) -> Density:
    """More draws in the middle for a scale above 0, at both ends below it.

    Equation 20 of Esser et al. 2024, of 1 - uniform: a quantile function increases.

    Args:
        scale: From -1 to 2 / (pi - 2), about 1.75; beyond, the density is not one.
    """
    return lambda uniform: (1 + scale) * uniform - scale * math.sin(math.pi / 2 * uniform) ** 2
