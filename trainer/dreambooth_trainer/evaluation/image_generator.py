"""Generates images of the model in its current state, on all ranks together."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from PIL import Image

from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.data.png import decode_png, encode_png
from dreambooth_trainer.models import Family
from dreambooth_trainer.models.adapters.trainable import PRECISIONS
from dreambooth_trainer.models.generate import ImageRequest, generate_images
from dreambooth_trainer.models.sharding import is_sharded
from dreambooth_trainer.process.chunks import gather_chunks, images_per_pass, own_chunks
from dreambooth_trainer.process.out_of_memory import explain_out_of_memory
from dreambooth_trainer.process.signals import StoppedError


class ImageGenerator:
    """Generates images with the settings of `spec.samples`, divided among the ranks.

    Args:
        attempt: The current one.
        family: The model.
        size: Width and height in pixels; by default, squares of the training's resolution.
    """

    def __init__(
        self, attempt: Attempt, family: Family, size: tuple[int, int] | None = None
    ) -> None:
        self._family = family
        self._job = attempt.job
        self._ranks = attempt.ranks
        self._samples = attempt.job.spec.samples
        resolution = attempt.job.spec.training.resolution
        self._size = size or (resolution, resolution)
        self.chunk = images_per_pass(max(self._size))
        self._precision = PRECISIONS[attempt.job.spec.training.precision]
        self._device = attempt.device
        self._sharded = is_sharded(family.denoiser)
        self._stop = attempt.stop

    def generate(self, requests: Sequence[ImageRequest]) -> list[Image.Image]:
        """One image per request, in their order, on every rank. Collective.

        Raises:
            StoppedError: On every rank, when one was asked to stop meanwhile.
        """
        own: dict[int, list[bytes]] = {}
        chunks = own_chunks(requests, self._ranks.topology, self.chunk, in_step=self._sharded)
        for number, chunk in chunks.items():
            # Ranks that have divided the model make the same passes: they stop together.
            if self._sharded and any(self._ranks.gather(self._stop.requested)):
                break
            try:
                images = self._generate(chunk)
            except StoppedError:
                break  # not raised here: the other ranks are waiting in the gather below
            # As PNG, which is smaller to gather than pixels, and lossless.
            own[number] = [encode_png(image) for image in images]
        if any(self._ranks.gather(self._stop.requested)):
            raise StoppedError("asked to stop while generating images; every checkpoint is kept")
        return [decode_png(png) for pngs in gather_chunks(self._ranks, own) for png in pngs]

    def _generate(self, chunk: Sequence[ImageRequest]) -> list[Image.Image]:
        settings = self._samples
        mixed = self._precision is not torch.float32
        autocast = torch.autocast(self._device.type, self._precision) if mixed else nullcontext()
        with explain_out_of_memory("sampling", self._job), autocast:
            return generate_images(
                self._family,
                chunk,
                sampler=settings.sampler,
                steps=settings.steps,
                guidance_scale=settings.guidance_scale,
                negative_prompt=settings.negative_prompt,
                size=self._size,
                should_stop=lambda: self._stop.requested and not self._sharded,
            )
