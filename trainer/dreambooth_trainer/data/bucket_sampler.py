"""Draws of images of several shapes: all samples of one step have one shape.

So every micro-batch of a step has it, however the step is divided among ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dreambooth_trainer.data.sampler import (
    ImagePool,
    TrainingSample,
    TrainingSampler,
    choose,
    generator,
    permutation,
)
from dreambooth_trainer.objectives.objective import Objective

BUCKET = 4
"""Number of the random stream, and of the order, beside those of the samples."""


@dataclass(frozen=True)
class BucketSampler:
    """Draws the samples of a step from one of several buckets; a pure function, as its parts are.

    A bucket is drawn as often as its subjects' weights and their number of images in it say, so
    every image of a subject is as likely as the others.

    Args:
        buckets: A sampler for each shape. Weights are those of the subjects that have images of
            it, each times the fraction of the subject's images.
        subjects: Number of subjects, in all buckets together.
    """

    buckets: Sequence[TrainingSampler]
    subjects: int

    @property
    def objective(self) -> Objective:
        """Draws the timesteps."""
        return self.buckets[0].objective

    def draw(self, step: int, position: int) -> tuple[TrainingSample, TrainingSample | None]:
        """The subject's sample and, with prior preservation, the class's.

        Args:
            step: Optimizer steps before this one.
            position: In the global batch.
        """
        bucket, earlier = self._of_step(step)
        return self.buckets[bucket].draw(step, position, earlier)

    def _of_step(self, step: int) -> tuple[int, int]:
        """Bucket of a step, and how many steps had it before.

        With one subject, an image of each step in turn decides, so that every image has its turn
        once before any has it again, as with squares. With several, the bucket is drawn by weight,
        and all earlier steps count.
        """
        seed = self.buckets[0].seed
        if self.subjects > 1:
            uniform = generator(seed, BUCKET, step, 0).random()
            return choose([sum(bucket.weights) for bucket in self.buckets], uniform), step
        sizes = [bucket.subjects[0].size for bucket in self.buckets]
        epoch, place = divmod(step, sum(sizes))
        images = np.repeat(np.arange(len(sizes)), sizes)
        order = images[permutation(seed, BUCKET, ImagePool(0, len(images)), epoch)]
        bucket = int(order[place])
        return bucket, epoch * sizes[bucket] + int((order[:place] == bucket).sum())
