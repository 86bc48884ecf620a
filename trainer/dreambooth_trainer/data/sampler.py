"""Draws the image, timestep and noise of each sample: a pure function of (seed, step, position).

`position` counts the samples of one global batch, so nothing here depends on the rank or on the
number of ranks. A counter-based generator (Philox, Salmon et al. 2011) gives every (step, position)
its own stream without any state to save: resuming needs only the step, and may change the number of
ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dreambooth_trainer.objectives.objective import Objective

SUBJECT, PRIOR, ORDER = 0, 1, 2
"""Numbers of independent random streams."""


CAPTION_ORDERS = 8
"""Orders of a caption's tags that are drawn, where they are shuffled."""


@dataclass(frozen=True)
class ImagePool:
    """Images of one subject or class to draw from.

    Args:
        first: Their first row in the cache.
        size: Number of images.
        variants: Rows (crops, mirrorings) of each image.
    """

    first: int
    size: int
    variants: int = 1


@dataclass(frozen=True)
class TrainingSample:
    """The training sample of one position of one step.

    Args:
        row: Of the image's variant in the cache.
        timestep: In the objective's unit: an index for DDPM, sigma for flow matching.
        drop_caption: Whether the empty caption replaces the image's.
        empty_prompt: Whether the empty prompt of guidance replaces the class's.
        latent_noise: Selects a latent of the VAE's posterior, [C, h, w] float32.
        noise: Added at `timestep`, [C, h, w] float32.
        offset: Noise that is constant over a channel, before scaling, [C, 1, 1] float32.
        caption_order: Which order of the caption's tags, where they are shuffled.
    """

    row: int
    timestep: int | float
    drop_caption: bool
    empty_prompt: bool
    latent_noise: NDArray[np.float32]
    noise: NDArray[np.float32]
    offset: NDArray[np.float32]
    caption_order: int


@dataclass(frozen=True)
class TrainingSampler:
    """Draws the training samples of one run.

    Args:
        seed: Of the run.
        subjects: The images of each subject.
        priors: The images of each subject's class; empty without prior preservation.
        weights: Relative frequencies of the subjects.
        objective: Draws the timesteps.
        latent_shape: (C, h, w).
        global_batch: Subject images per optimizer step over all ranks.
        caption_dropout: Probability that the empty caption replaces the image's.
        empty_prompt_fraction: Probability that the empty prompt of guidance replaces the class's.
    """

    seed: int
    subjects: Sequence[ImagePool]
    priors: Sequence[ImagePool]
    weights: Sequence[float]
    objective: Objective
    latent_shape: tuple[int, int, int]
    global_batch: int
    caption_dropout: float = 0.0
    empty_prompt_fraction: float = 0.0

    def draw(
        self, step: int, position: int, earlier: int | None = None
    ) -> tuple[TrainingSample, TrainingSample | None]:
        """The subject's sample and, with prior preservation, the class's.

        Source: Ruiz et al. 2022, section 3.3.

        Args:
            step: Optimizer steps before this one.
            position: In the global batch.
            earlier: Those of them that drew from this sampler; None: all.
        """
        stream = self._stream(SUBJECT, step, position)
        index = choose(self.weights, stream.random())
        count = (step if earlier is None else earlier) * self.global_batch + position
        subject = self._draw(stream, SUBJECT, self.subjects[index], count)
        if not self.priors:
            return subject, None
        # A stream of its own: the subject's draws are the same with and without a prior.
        stream = self._stream(PRIOR, step, position)
        return subject, self._draw(stream, PRIOR, self.priors[index], count)

    def _draw(
        self, stream: np.random.Generator, kind: int, pool: ImagePool, count: int
    ) -> TrainingSample:
        """A sample of the pool; `count` samples of the run, of any subject, came before it.

        With one subject, every image is used once before any is used again.
        """
        epoch, index = divmod(count, pool.size)
        image = int(permutation(self.seed, kind, pool, epoch)[index])
        channels = self.latent_shape[0]
        # The order of these draws is part of the result: a change breaks resumed runs.
        row = pool.first + image * pool.variants + int(stream.integers(pool.variants))
        timestep = self.objective.draw_timestep(stream)
        uniform = stream.random()  # of both: the larger share includes the smaller one
        return TrainingSample(
            row=row,
            timestep=timestep,
            drop_caption=bool(uniform < self.caption_dropout),
            empty_prompt=kind == PRIOR and bool(uniform < self.empty_prompt_fraction),
            latent_noise=stream.standard_normal(self.latent_shape, dtype=np.float32),
            noise=stream.standard_normal(self.latent_shape, dtype=np.float32),
            offset=stream.standard_normal((channels, 1, 1), dtype=np.float32),
            # Last, so that all others are those of earlier versions.
            caption_order=int(stream.integers(CAPTION_ORDERS)),
        )

    def _stream(self, kind: int, step: int, position: int) -> np.random.Generator:
        return generator(self.seed, kind, step, position)


def choose(weights: Sequence[float], uniform: float) -> int:
    """Index of a weight, each as often as it says, by a uniform number in 0..1."""
    shares = np.cumsum(weights) / np.sum(weights)
    # Clipped, as the last share may be rounded to less than 1.
    return int(np.searchsorted(shares, uniform, side="right").clip(0, len(weights) - 1))


def generator(seed: int, kind: int, major: int, minor: int) -> np.random.Generator:
    """The random stream of a kind, independent of all others with another number."""
    # The lowest counter word is left to the generator, which counts its own blocks in it.
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, minor, major, kind]))


@lru_cache(maxsize=64)
def permutation(seed: int, kind: int, pool: ImagePool, epoch: int) -> NDArray[np.int64]:
    """The order of a pool's images, [size], in one pass over them."""
    stream = generator(seed, ORDER + kind, epoch, pool.first)
    return stream.permutation(pool.size)
