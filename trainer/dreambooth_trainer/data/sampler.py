"""Which image, timestep and noise a step uses: a pure function of (seed, step, position).

`position` counts the samples of one global batch, so nothing here depends on a rank or on how many
there are. A counter-based generator (Philox, Salmon et al. 2011) gives every (step, position) its
own stream without any state to save: resuming needs the step alone, and may change the number of
ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SUBJECT, PRIOR, ORDER = 0, 1, 2
"""Independent streams."""


@dataclass(frozen=True)
class ImagePool:
    """Images of one subject or class to draw from.

    Their rows in the cache start at `first`: `variants` (crops, mirrorings) of each of `size`
    images.
    """

    first: int
    size: int
    variants: int = 1


@dataclass(frozen=True)
class TrainingSample:
    """What one position of one step trains on.

    `row` is the image's variant in the cache. `latent_noise` resamples the VAE's posterior,
    `noise` is added at `timestep`; both [C, h, w] float32. `offset` is the per-channel noise
    offset before scaling, [C, 1, 1].
    """

    row: int
    timestep: int
    drop_caption: bool
    latent_noise: NDArray[np.float32]
    noise: NDArray[np.float32]
    offset: NDArray[np.float32]


@dataclass(frozen=True)
class TrainingSampler:
    """Draws for one run.

    `subjects` and `priors` are parallel: the prior pool of each subject's class (empty without
    prior).
    """

    seed: int
    subjects: Sequence[ImagePool]
    priors: Sequence[ImagePool]
    weights: Sequence[float]
    timesteps: int
    latent_shape: tuple[int, int, int]
    global_batch: int
    caption_dropout: float = 0.0

    def draw(self, step: int, position: int) -> tuple[TrainingSample, TrainingSample | None]:
        """The subject's sample and, with prior preservation, the class sample beside it."""
        stream = self._stream(SUBJECT, step, position)
        index = self._subject(stream.random())
        place = step * self.global_batch + position
        subject = self._one(stream, SUBJECT, self.subjects[index], place)
        if not self.priors:
            return subject, None
        stream = self._stream(PRIOR, step, position)
        return subject, self._one(stream, PRIOR, self.priors[index], place)

    def _subject(self, uniform: float) -> int:
        shares = np.cumsum(self.weights) / np.sum(self.weights)
        return int(np.searchsorted(shares, uniform, side="right").clip(0, len(self.weights) - 1))

    def _one(
        self, stream: np.random.Generator, kind: int, pool: ImagePool, place: int
    ) -> TrainingSample:
        """Every image of a pool comes once before any comes again."""
        epoch, index = divmod(place, pool.size)
        image = int(_permutation(self.seed, kind, pool, epoch)[index])
        channels = self.latent_shape[0]
        return TrainingSample(
            row=pool.first + image * pool.variants + int(stream.integers(pool.variants)),
            timestep=int(stream.integers(self.timesteps)),
            drop_caption=bool(stream.random() < self.caption_dropout),
            latent_noise=stream.standard_normal(self.latent_shape, dtype=np.float32),
            noise=stream.standard_normal(self.latent_shape, dtype=np.float32),
            offset=stream.standard_normal((channels, 1, 1), dtype=np.float32),
        )

    def _stream(self, kind: int, step: int, position: int) -> np.random.Generator:
        return _generator(self.seed, kind, step, position)


def _generator(seed: int, kind: int, major: int, minor: int) -> np.random.Generator:
    # The lowest counter word is left to the generator, which counts its own blocks in it.
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, minor, major, kind]))


@lru_cache(maxsize=64)
def _permutation(seed: int, kind: int, pool: ImagePool, epoch: int) -> NDArray[np.int64]:
    stream = _generator(seed, ORDER + kind, epoch, pool.first)
    return stream.permutation(pool.size)
