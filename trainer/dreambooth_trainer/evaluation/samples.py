"""Images made from the model as it is trained, always from the same seeds."""

import io
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from PIL import Image

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.evaluation.grid import before_after, grid
from dreambooth_trainer.models import Family
from dreambooth_trainer.models.adapters import PRECISIONS
from dreambooth_trainer.models.generate import Request, generate
from dreambooth_trainer.process.signals import StoppedError

CHUNK = 8
"""Images generated together. Fixed, so that an image never depends on the number of ranks."""


def default_prompts(job: DreamBoothJob) -> list[str]:
    """ "a photo of <identifier> <class>" for each subject."""
    return [f"a photo of {s.identifier} {s.class_noun}" for s in job.spec.subjects]


class Painter:
    """Generates images with all ranks; every rank gets all of them, in the requests' order."""

    def __init__(self, attempt: Attempt, family: Family) -> None:
        self._family = family
        self._ranks = attempt.ranks
        self._samples = attempt.job.spec.samples
        self._resolution = attempt.job.spec.training.resolution
        self._precision = PRECISIONS[attempt.job.spec.training.precision]
        self._device = attempt.device
        self._stop = attempt.stop

    def paint(self, requests: Sequence[Request]) -> list[Image.Image]:
        """One image per request. Collective.

        Raises `StoppedError` on every rank when one was asked to stop meanwhile.
        """
        chunks = [list(requests[i : i + CHUNK]) for i in range(0, len(requests), CHUNK)]
        topology = self._ranks.topology
        mine: dict[int, list[bytes]] = {}
        for index in range(topology.rank, len(chunks), topology.world_size):
            if self._stop.requested:
                break
            mine[index] = [_to_png(image) for image in self._generate(chunks[index])]
        shares = self._ranks.gather((mine, self._stop.requested))
        if any(asked for _, asked in shares):
            raise StoppedError("asked to stop while images were made; every checkpoint is kept")
        everyone = {i: part for parts, _ in shares for i, part in parts.items()}
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

    def __init__(self, painter: Painter, attempt: Attempt, check_owner: Callable[[], None]) -> None:
        self._painter = painter
        self._attempt = attempt
        self._check_owner = check_owner
        self._storage = attempt.storage
        self._layout = attempt.layout
        self._count = attempt.job.spec.samples.count
        self._seed = attempt.job.spec.samples.seed
        self._prompts = list(attempt.job.spec.samples.prompts) or default_prompts(attempt.job)

    def write(self, step: int) -> None:
        """Paint all prompts and write them to `samples/step-<step>/`. Collective.

        Raises FencedError, and writes nothing, when a newer attempt owns the output.
        """
        seeds = range(self._seed, self._seed + self._count)
        images = self._painter.paint([Request(p, seed) for p in self._prompts for seed in seeds])
        rows = [images[i : i + self._count] for i in range(0, len(images), self._count)]
        self._check_owner()
        if self._attempt.topology.rank == 0:
            for number, row in enumerate(rows):
                for index, image in enumerate(row):
                    self._storage.write(self._uri(step, number, index), _to_png(image))
            sheet = grid(rows, labels=self._prompts)
            self._storage.write(self._layout.grid(step), _to_png(sheet))
        self._attempt.telemetry.samples(self._storage, step, self._layout.grid(step))

    def compare(self, before: int, after: int) -> None:
        """Write `samples/before-after.png` from the samples of two steps. Rank 0 acts."""
        if self._attempt.topology.rank == 0:
            sheet = before_after(self._read(before), self._read(after), labels=self._prompts)
            self._storage.write(self._layout.before_after, _to_png(sheet))

    def _read(self, step: int) -> list[list[Image.Image]]:
        return [
            [_from_png(self._storage.read(self._uri(step, number, i))) for i in range(self._count)]
            for number in range(len(self._prompts))
        ]

    def _uri(self, step: int, prompt: int, index: int) -> str:
        return f"{self._layout.samples(step)}/{prompt}-{index}.png"


def _to_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _from_png(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image
