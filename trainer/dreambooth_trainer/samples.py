"""Images made from the model as it is trained, always from the same seeds."""

import io
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from PIL import Image

from dreambooth_api.job import DreamBoothJob
from dreambooth_api.prior import Sampler
from dreambooth_trainer.adapters import PRECISIONS
from dreambooth_trainer.distributed import Ranks
from dreambooth_trainer.families import Family
from dreambooth_trainer.generate import Request, generate
from dreambooth_trainer.grid import grid
from dreambooth_trainer.storage import Storage, join

CHUNK = 8
"""Images generated together. Fixed, so that an image never depends on the number of ranks."""


def default_prompts(job: DreamBoothJob) -> list[str]:
    """"a photo of <identifier> <class>" for each subject."""
    return [f"a photo of {s.identifier} {s.class_noun}" for s in job.spec.subjects]


class Painter:
    """Generates images with all ranks; every rank gets all of them, in the order of the requests."""

    def __init__(self, family: Family, ranks: Ranks, job: DreamBoothJob, device: torch.device) -> None:
        self._family = family
        self._ranks = ranks
        self._samples = job.spec.samples
        self._resolution = job.spec.training.resolution
        self._precision = PRECISIONS[job.spec.training.precision]
        self._device = device

    def paint(self, requests: Sequence[Request], sampler: Sampler | None = None) -> list[Image.Image]:
        """One image per request. Collective."""
        chunks = [list(requests[i : i + CHUNK]) for i in range(0, len(requests), CHUNK)]
        topology = self._ranks.topology
        mine = {
            index: [_to_png(image) for image in self._generate(chunk)]
            for index, chunk in enumerate(chunks)
            if index % topology.world_size == topology.rank
        }
        everyone = {i: part for parts in self._ranks.gather(mine) for i, part in parts.items()}
        return [_from_png(png) for index in range(len(chunks)) for png in everyone[index]]

    def _generate(self, chunk: list[Request]) -> list[Image.Image]:
        settings = self._samples
        mixed = self._precision is not torch.float32
        with torch.autocast(self._device.type, self._precision) if mixed else nullcontext():
            return generate(
                self._family.pipeline(),
                chunk,
                sampler=settings.sampler,
                steps=settings.steps,
                guidance_scale=settings.guidance_scale,
                negative_prompt=settings.negative_prompt,
                size=self._resolution,
                batch=CHUNK,
            )


class SampleWriter:
    """Paints the job's sample prompts and writes them beside a grid."""

    def __init__(self, painter: Painter, storage: Storage, run: str, job: DreamBoothJob, rank: int):
        self._painter = painter
        self._storage = storage
        self._folder = join(run, "samples")
        self._samples = job.spec.samples
        self._prompts = list(job.spec.samples.prompts) or default_prompts(job)
        self._rank = rank

    def write(self, step: int) -> str:
        """Paint all prompts and write `samples/step-<step>/`; returns the grid's URI. Collective."""
        count, seed = self._samples.count, self._samples.seed
        images = self._painter.paint(
            [Request(prompt, seed + i) for prompt in self._prompts for i in range(count)]
        )
        rows = [images[i : i + count] for i in range(0, len(images), count)]
        folder = join(self._folder, f"step-{step:08d}")
        if self._rank == 0:
            for number, row in enumerate(rows):
                for index, image in enumerate(row):
                    self._storage.write(join(folder, f"{number}-{index}.png"), _to_png(image))
            sheet = grid(rows, labels=self._prompts)
            self._storage.write(join(folder, "grid.png"), _to_png(sheet))
        return join(folder, "grid.png")


def _to_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _from_png(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image
