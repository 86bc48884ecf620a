"""The loss on images that are not trained on, at fixed timesteps and with fixed noise.

The training loss varies with its draws far more than with the model. Here nothing is drawn anew:
values of different steps, runs and settings can be compared, as long as images, resolution and base
model are the same. The timesteps are spread evenly, and no sample is weighted.
"""

import math
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext

import numpy as np
import torch
from torch import Tensor

from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.data.cache import TrainingCache
from dreambooth_trainer.models import Family
from dreambooth_trainer.models.adapters.trainable import PRECISIONS
from dreambooth_trainer.models.generate import eval_mode
from dreambooth_trainer.models.sharding import is_sharded
from dreambooth_trainer.objectives.make import make_objective
from dreambooth_trainer.process import heartbeat
from dreambooth_trainer.process.chunks import gather_chunks, images_per_pass, own_chunks

TIMESTEPS = 16
"""Timesteps for each image: a forward pass costs a third of a training step."""
MAX_IMAGES = 32
"""Images that are used, the first by name."""
NOISE_SEED = 0x5EED
"""The same in every run, whatever its seeds."""


class ValidationLoss:
    """Measures the loss on held-out images, divided among the ranks.

    Args:
        attempt: The current one.
        family: The model.
        cache: Of the held-out images, one row for each.
    """

    def __init__(self, attempt: Attempt, family: Family, cache: TrainingCache) -> None:
        training = attempt.job.spec.training
        self._attempt = attempt
        self._family = family
        self._cache = cache
        self._objective = make_objective(family, training, attempt.device)
        self._shape = family.latent_shape(training.resolution)
        self._resolution = training.resolution
        self._precision = PRECISIONS[training.precision]
        rows = range(min(len(cache.moments), MAX_IMAGES))
        timesteps = self._objective.even_timesteps(TIMESTEPS)
        self._samples = [(row, timestep) for row in rows for timestep in timesteps]

    def measure(self) -> float:
        """The mean squared error of the model in its current state. Collective.

        Returns:
            The same on every rank; NaN where the model's predictions are not finite.

        Raises:
            StoppedError: On every rank, when one was asked to stop.
        """
        size = images_per_pass(self._resolution)
        with ExitStack() as stack:
            for module in (self._family.denoiser, *self._family.text_encoders.values()):
                stack.enter_context(eval_mode(module))
            stack.enter_context(torch.no_grad())
            stack.enter_context(self._autocast())
            own: dict[int, list[float]] = {}
            sharded = is_sharded(self._family.denoiser)
            chunks = own_chunks(self._samples, self._attempt.topology, size, in_step=sharded)
            for number, chunk in chunks.items():
                # Ranks that have divided the model make the same passes, and stop after them.
                if self._attempt.stop.requested and not sharded:
                    break  # not raised here: the other ranks are on their way to the check below
                own[number] = self._losses(number * size, chunk).tolist()
        self._attempt.check_stop()
        parts: list[list[float]] = gather_chunks(self._attempt.ranks, own)
        return math.fsum(each for part in parts for each in part) / len(self._samples)

    def _autocast(self) -> torch.autocast | nullcontext[None]:
        if self._precision is torch.float32:
            return nullcontext()
        return torch.autocast(self._attempt.device.type, self._precision)

    def _losses(self, first: int, samples: Sequence[tuple[int, float]]) -> Tensor:
        """The squared error of each sample, [N] in fp64; `first` is the number of the first."""
        heartbeat.send()
        device = self._attempt.device
        rows = torch.tensor([row for row, _ in samples], device=device)
        timesteps = torch.tensor(
            [timestep for _, timestep in samples],
            dtype=self._objective.timestep_dtype,
            device=device,
        )
        noise = torch.stack([self._noise(first + i) for i in range(len(samples))]).to(device)
        # The posterior's mean: a draw from it would only add variance.
        latents = self._family.sample_latents(self._cache.moments[rows], torch.zeros_like(noise))
        prediction = self._family.predict(
            self._objective.add_noise(latents, noise, timesteps),
            timesteps,
            self._cache.conditioning_of(self._family, self._cache.caption_of_row[rows]),
            self._cache.crops[rows],
        )
        target = self._objective.target(latents, noise, timesteps)
        errors = (prediction.float() - target.float()).square()
        return errors.double().mean(dim=(1, 2, 3)).cpu()

    def _noise(self, number: int) -> Tensor:
        """The noise of a sample, [C, h, w]: a function of its number alone."""
        stream = np.random.Generator(np.random.Philox(key=NOISE_SEED, counter=[0, number, 0, 0]))
        return torch.from_numpy(stream.standard_normal(self._shape, dtype=np.float32))
