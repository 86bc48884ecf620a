"""The interface of a training objective."""

from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

ObjectiveKind = Literal["ddpm", "flow"]
"""How a base model was trained: by DDPM (Ho et al. 2020), or by flow matching (Lipman et al.
2023)."""


class Objective(Protocol):
    """What noise is added to latents, and what the denoiser learns to predict from them.

    Latents and noise are [N, C, h, w], timesteps [N], of the objective's own unit.
    """

    @property
    def timestep_dtype(self) -> torch.dtype:
        """int64 for DDPM, whose timesteps are indices; float32 for flow matching."""

    def draw_timestep(self, stream: np.random.Generator) -> float:
        """The timestep of one sample, in one draw from its random stream."""

    def even_timesteps(self, count: int) -> list[float]:
        """Timesteps at equal distances over the whole range, whatever the density of training."""

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noisy latents [N, C, h, w], the denoiser's input."""

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the denoiser should predict, [N, C, h, w]."""

    def weights(self, timesteps: Tensor) -> Tensor | None:
        """Loss weight of each sample, [N]; None: equal weights."""
