"""A job on one device by the trainer's own code: from its cache to its last step."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.models.model import Quantization
from dreambooth_api.models.pods.runtime import Offload
from dreambooth_api.parsing.load import parse
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.checkpoint import CheckpointStore
from dreambooth_trainer.data.batches import Batch, make_batch
from dreambooth_trainer.data.cache import TrainingCache, build_cache
from dreambooth_trainer.data.crops import variants
from dreambooth_trainer.data.dataset import Dataset
from dreambooth_trainer.data.images import load_images
from dreambooth_trainer.data.latents import ImageGroup, LatentStore
from dreambooth_trainer.data.png import encode_png
from dreambooth_trainer.evaluation.image_generator import ImageGenerator
from dreambooth_trainer.evaluation.samples import SampleWriter
from dreambooth_trainer.models.adapters.trainable import (
    PRECISIONS,
    TrainableParameters,
    make_trainable,
)
from dreambooth_trainer.models.defaults import fill_defaults
from dreambooth_trainer.models.offload.apply import offload as offload_denoiser
from dreambooth_trainer.process.batch_split import split_batch
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.signals import StopSignal
from dreambooth_trainer.process.topology import Topology
from dreambooth_trainer.run.fit import fit
from dreambooth_trainer.telemetry.history import StepReport
from dreambooth_trainer.telemetry.telemetry import Telemetry
from dreambooth_trainer.training.module import DreamBooth, ResumeState
from tests.bench.gpu.device import Device
from tests.bench.gpu.models import build_family, read_config

SUBJECT, CLASS = "a photo of sks mug", "a photo of a mug"
TINY_RESOLUTION = 64
FOREVER = 100_000
"""Steps of a job that is stopped once it was measured: its last save would only take time."""


class _EnoughError(Exception):
    """As many steps are reported as were asked for."""


class _Reports(Telemetry):
    """Keeps the reports of the steps, and ends the training after `count`."""

    def __init__(self, job: DreamBoothJob) -> None:
        super().__init__(job, Topology())
        self.count = FOREVER
        self.steps: list[StepReport] = []

    def record_step(self, report: StepReport) -> None:
        super().record_step(report)
        self.steps.append(report)
        if len(self.steps) == self.count:
            raise _EnoughError


class TrainerRun:
    """One job with a random model.

    Args:
        model: See `read_config`.
        folder: Empty; for images, checkpoints and a tiny model.
        tiny: A tiny model, and images of `TINY_RESOLUTION` pixels.
        resolution: In pixels, of the published size.
        prior: Whether class images are trained on.
        quantization: `spec.model.quantization`.
        offload: `spec.runtime.offload`.
        **training: Settings of `spec.training`.
    """

    def __init__(
        self,
        model: str,
        folder: Path,
        *,
        tiny: bool,
        resolution: int,
        prior: bool = False,
        quantization: Quantization | None = None,
        offload: Offload | None = None,
        **training: Any,
    ) -> None:
        self.device = Device.find()
        self.config = read_config(model, folder, tiny)
        size = TINY_RESOLUTION if tiny else resolution
        training = {"steps": FOREVER, "precision": "bf16", "resolution": size, **training}
        job = _job(folder, prior, training)
        job.spec.model.quantization = quantization
        job.spec.runtime.offload = offload
        self.job = fill_defaults(job, self.config.defaults, self.config.skeleton.flow_shift)
        self._reports = _Reports(self.job)
        self.storage = Storage(StorageSettings(None, None, "auto"))
        self._attempt = Attempt(
            self.job,
            Ranks(Topology()),
            self.storage,
            self._reports,
            StopSignal(),
            self.device.torch,
        )
        self.device.reset_peak()
        self.family = build_family(
            self.config, self.device.torch, self.job.spec.training, quantization
        )
        if offload is not None:
            denoiser, excluded = self.family.denoiser, self.family.not_adapted
            offload_denoiser(denoiser, excluded, offload, self.device.torch)
        if quantization or offload:  # a job never has the whole model in full precision
            self.device.reset_peak()
        self._prior = prior
        self.store = CheckpointStore(self._attempt.storage, f"file://{folder}/checkpoints")
        self.store.claim()
        self._trained: TrainableParameters | None = None

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of the job's forward passes."""
        precision = PRECISIONS[self.job.spec.training.precision]
        enabled = precision is not torch.float32
        return torch.autocast(self.device.torch.type, precision, enabled=enabled)

    def encode(self) -> None:
        """Make the images, and build the cache of their latents and captions."""
        subject = self._group(5, SUBJECT)
        classes = {"mug": self._group(5, CLASS)} if self._prior else {}
        self.dataset = Dataset(self.job, [subject], classes)
        self.cache: TrainingCache = build_cache(
            self.family,
            self.dataset.groups,
            self.job.spec.training.resolution,
            text_is_trained=self.job.spec.training.text_encoder.method != "frozen",
            store=LatentStore(self._attempt.storage, self._attempt.layout.latents),
            ranks=self._attempt.ranks,
            device=self.device.torch,
        )

    def module(self, *, prior: bool = True, resume: ResumeState | None = None) -> DreamBooth:
        """The training module, with the prior loss unless the job or the caller goes without."""
        if self._trained is None:
            self._trained = make_trainable(self.family, self.job.spec.training)
        own = self.job.spec.prior if self._prior and prior else None
        return DreamBooth(
            self.family, self._trained, self.job.spec.training, self.cache, own, resume
        )

    def fit(self, module: DreamBooth, count: int = FOREVER) -> list[StepReport]:
        """Train with Lightning's loop; returns the reports of the first `count` steps."""
        self._reports.steps, self._reports.count = [], count
        writer = SampleWriter(
            ImageGenerator(self._attempt, self.family), self._attempt, lambda: None
        )
        try:
            fit(self._attempt, module, self.dataset, self.store, writer, split_batch(self.job, 1))
        except _EnoughError:
            module.release_optimizer()
        return self._reports.steps

    def batch(self, module: DreamBooth) -> Batch:
        """The first batch of the job, on the device."""
        count = split_batch(self.job, 1).local
        sampler = self.dataset.sampler(count, module.latent_shape, module.objective)
        batch = make_batch(sampler, 0.0, 0, range(count))
        return {name: part.to(self.device.torch) for name, part in batch.items()}

    def forward_backward(self, module: DreamBooth, batch: Batch) -> Callable[[], None]:
        """The arithmetic of a micro-batch, without the loop around it."""
        return partial(self._forward_backward, module, batch)

    def _forward_backward(self, module: DreamBooth, batch: Batch) -> None:
        with self.autocast():
            loss = module.training_step(batch, 0)
        loss.backward()
        module.zero_grad(set_to_none=True)

    def _group(self, count: int, caption: str) -> ImageGroup:
        storage, size = self._attempt.storage, self.job.spec.training.resolution
        folder = f"{self.job.spec.output}/{caption.replace(' ', '-')}"
        for number in range(count):
            image = Image.new("RGB", (size, size), (40 * number, 90, 40))
            storage.write(f"{folder}/{number}.png", encode_png(image))
        found = load_images(storage, folder, field="images", resolution=size)
        return ImageGroup(found.images, [caption] * count, variants("center", flip=False))


def _job(folder: Path, prior: bool, training: dict[str, Any]) -> DreamBoothJob:
    return parse(
        {
            "apiVersion": "dreambooth.dev/v1alpha1",
            "kind": "DreamBoothJob",
            "metadata": {"name": "bench", "uid": "bench"},
            "spec": {
                "model": {"source": "file:///random"},
                "subjects": [{"identifier": "sks", "classNoun": "mug", "images": "file:///none"}],
                "output": f"file://{folder}/output",
                "prior": {"enabled": prior, "target": "noise", "emptyPromptFraction": 0},
                "training": training,
                "checkpoints": {"every": training["steps"], "keep": 1},
                "runtime": {"gpusPerNode": 1},  # the device is the attempt's
            },
        }
    )
