"""Where reports go: Prometheus, /progress, the loss history, TensorBoard and W&B."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO

import torch
from PIL import Image

from dreambooth_api.contract.layout import OutputLayout
from dreambooth_api.models.job import DreamBoothJob, output_layout
from dreambooth_storage import ObjectNotFoundError, Storage
from dreambooth_trainer.checkpoint import CheckpointRef
from dreambooth_trainer.process import heartbeat
from dreambooth_trainer.process.exit_status import sentence
from dreambooth_trainer.process.topology import Topology
from dreambooth_trainer.telemetry.metrics import Metrics
from dreambooth_trainer.telemetry.progress import Progress, serve
from dreambooth_trainer.telemetry.trackers import Trackers
from dreambooth_trainer.training.reporter import History, StepReport


class Telemetry:
    """Tells everybody who watches this rank. Only rank 0 writes to storage."""

    def __init__(self, job: DreamBoothJob, topology: Topology) -> None:
        self.metrics = Metrics(
            {
                "namespace": job.metadata.namespace,
                "job": job.metadata.name,
                "attempt": str(topology.attempt),
                "rank": str(topology.rank),
            }
        )
        if torch.cuda.is_available():
            self.metrics.gpu_memory(
                used=lambda: _over_gpus(torch.cuda.memory_allocated),
                peak=lambda: _over_gpus(torch.cuda.max_memory_allocated),
            )
        self.progress = Progress(
            job.spec.training.steps,
            attempt=topology.attempt,
            world_size=topology.world_size,
            output=output_layout(job).root,
        )
        self.trackers = Trackers()
        self._history = History()
        self._topology = topology
        self._images_per_step = 0

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Answer /metrics, and on rank 0 /progress, at the pod's address."""
        port = int(os.environ.get("DREAMBOOTH_METRICS_PORT", "9400")) + self._topology.local_rank
        progress = self.progress if self._topology.rank == 0 else None
        server = serve(self.metrics, progress, os.environ.get("POD_IP", "0.0.0.0"), port)
        try:
            yield
        finally:
            self.trackers.close()
            if server is not None:
                server.close()

    def stage(self, stage: str) -> None:
        """A new stage begins."""
        heartbeat.enter_stage(stage)
        self.metrics.stage(stage)
        self.progress.stage(stage)

    def prior(self, done: int, total: int) -> None:
        """So many class images are there."""
        self.progress.prior(done, total)

    def begin(self, step: int, total_steps: int, images_per_step: int) -> None:
        """Training goes on from `step`; each step takes `images_per_step` images over all ranks."""
        self._images_per_step = images_per_step
        self.metrics.start(step, total_steps)
        self.progress.resumed(step)

    def step(self, report: StepReport) -> None:
        """An optimizer step was done."""
        images, seconds = self._images_per_step, report.seconds
        losses = (report.loss, report.subject_loss, report.prior_loss, report.learning_rate)
        self.metrics.step_done(
            report.step,
            images=images // self._topology.world_size,
            seconds=seconds,
            data_wait_seconds=report.data_wait_seconds,
        )
        self.metrics.losses(*losses)
        self.progress.step_done(report.step, images=images, seconds=seconds)
        self.progress.losses(*losses)
        self.metrics.images_per_second(self.progress.images_per_second or 0.0)
        self._history.add(report)
        self.trackers.log(
            report.step,
            {
                "loss/total": report.loss,
                "loss/subject": report.subject_loss,
                "loss/prior": report.prior_loss,
                "learning_rate": report.learning_rate,
            },
        )

    def resume_history(self, storage: Storage, layout: OutputLayout, step: int) -> None:
        """Go on with the history of earlier attempts."""
        try:
            self._history.resume(storage.read(layout.history).decode(), step)
        except ObjectNotFoundError:
            return

    def keep_history(self, storage: Storage, layout: OutputLayout) -> None:
        """Make durable what belongs to a checkpoint. On rank 0 alone, from any thread."""
        storage.write(layout.history, self._history.text().encode())
        self.trackers.sync()

    def saved(self, reference: CheckpointRef, seconds: float) -> None:
        """A checkpoint became durable, `seconds` after its state was copied."""
        size = reference.manifest.total_bytes // self._topology.world_size
        self.metrics.checkpoint_saved(reference.step, size=size, seconds=seconds)
        self.progress.checkpoint(reference.step, reference.uri)

    def save_failed(self, error: Exception) -> None:
        """A checkpoint could not be saved; a later attempt may."""
        self.metrics.checkpoint_failed()
        self.progress.save_failed(sentence(error))

    def samples(self, storage: Storage, step: int, grid: str) -> None:
        """A grid of samples was written."""
        self.progress.sample(grid)
        if self._topology.rank == 0:
            self.trackers.images(step, Image.open(BytesIO(storage.read(grid))))

    def exported(self, uri: str) -> None:
        """The model to take home is complete."""
        self.progress.exported(uri)


def _over_gpus(read: Callable[[int], int]) -> int:
    """This process uses one GPU, but the thread that answers a scrape does not know which."""
    return sum(read(gpu) for gpu in range(torch.cuda.device_count()))


def write_json(storage: Storage, uri: str, value: object) -> None:
    """Write a result for people and programs."""
    storage.write(uri, json.dumps(value, indent=2).encode())
