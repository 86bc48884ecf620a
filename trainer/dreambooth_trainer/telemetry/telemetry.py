"""Where reports go: Prometheus, /progress, the loss history, TensorBoard, W&B and MLflow."""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import torch
from PIL import Image

from dreambooth_api.contract import environment
from dreambooth_api.contract.message import BestCheckpoint
from dreambooth_api.contract.scores import Scores
from dreambooth_api.contract.stages import Stage
from dreambooth_api.models.job import DreamBoothJob, output_layout
from dreambooth_storage import Storage
from dreambooth_trainer.process import heartbeat
from dreambooth_trainer.process.exit_status import describe
from dreambooth_trainer.process.topology import Topology
from dreambooth_trainer.telemetry.history import History, StepReport
from dreambooth_trainer.telemetry.metrics import Metrics
from dreambooth_trainer.telemetry.progress import ProgressState
from dreambooth_trainer.telemetry.progress_log import log_progress, logging_progress
from dreambooth_trainer.telemetry.server import serve
from dreambooth_trainer.telemetry.trackers import Trackers

log = logging.getLogger(__name__)


class Telemetry:
    """Reports what this rank does to everything that observes it."""

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
            self.metrics.watch_gpu_memory(
                used=lambda: _sum_over_gpus(torch.cuda.memory_allocated),
                peak=lambda: _sum_over_gpus(torch.cuda.max_memory_allocated),
            )
        self.progress = ProgressState(
            job.spec.training.steps,
            attempt=topology.attempt,
            world_size=topology.world_size,
            output=output_layout(job).root,
        )
        self.trackers = Trackers()
        self.history = History()
        self.warnings: Sequence[str] = ()
        """What the checks before training found. On rank 0 alone, as are `notes`."""
        self.notes: Sequence[str] = ()
        self._topology = topology
        self._images_per_step = 0

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Serve /metrics, and on rank 0 /progress, at the pod's address."""
        # Ranks of a pod share its address, so each has the port of its local rank.
        first = os.environ.get(environment.METRICS_PORT, environment.DEFAULT_METRICS_PORT)
        port = int(first) + self._topology.local_rank
        progress = self.progress if self._topology.rank == 0 else None
        address = os.environ.get(environment.POD_IP, "0.0.0.0")
        server = serve(self.metrics, progress, address, port)
        succeeded = False
        try:
            with logging_progress(progress) if progress else nullcontext():
                yield
            succeeded = True
        finally:
            # While the metrics are still served: trackers upload their files.
            self.trackers.close(succeeded=succeeded)
            if server is not None:
                server.close()

    def enter_stage(self, stage: Stage) -> None:
        """The attempt enters `stage`."""
        heartbeat.enter_stage(stage)
        self.metrics.enter_stage(stage)
        self.progress.enter_stage(stage)
        if self._topology.rank == 0:
            log_progress(self.progress)

    def record_checks(self, warnings: Sequence[str], notes: Sequence[str]) -> None:
        """The checks before training have found these. Rank 0 alone."""
        self.warnings, self.notes = tuple(warnings), tuple(notes)
        self.progress.record_checks(warnings, notes)

    def resume(self, step: int) -> None:
        """The attempt goes on from the checkpoint of `step`."""
        self.progress.resume(step)
        log.info("resuming from the checkpoint of step %d", step)

    def start_training(self, step: int, total_steps: int, images_per_step: int) -> None:
        """Training begins after `step` steps of earlier attempts.

        Each step takes `images_per_step` subject and class images over all ranks.
        """
        self._images_per_step = images_per_step
        self.metrics.start_training(step, total_steps)

    def record_step(self, report: StepReport) -> None:
        """An optimizer step is done (see `StepReport` for its units)."""
        images, seconds = self._images_per_step, report.seconds
        losses = (report.loss, report.subject_loss, report.prior_loss, report.learning_rate)
        self.metrics.record_step(
            report.step,
            images=images // self._topology.world_size,
            seconds=seconds,
            data_wait_seconds=report.data_wait_seconds,
        )
        self.metrics.record_losses(*losses)
        self.progress.record_step(report.step, images=images, seconds=seconds)
        self.progress.record_losses(*losses)
        self.metrics.record_throughput(self.progress.images_per_second or 0.0)
        self.history.add(report)
        self.trackers.log(
            report.step,
            {
                "loss/total": report.loss,
                "loss/subject": report.subject_loss,
                "loss/prior": report.prior_loss,
                **report.rates,
                "gradient_norm": report.gradient_norm,
                "time/step_seconds": seconds,
                "time/data_wait_seconds": report.data_wait_seconds,
                "time/images_per_second": self.progress.images_per_second or 0.0,
            },
        )

    def record_checkpoint(self, step: int, uri: str, *, size: int, seconds: float) -> None:
        """The checkpoint of `step` is durable in the folder `uri`.

        Args:
            step: Optimizer steps that it holds.
            uri: Its folder.
            size: Bytes that this rank wrote.
            seconds: Since its state was copied.
        """
        self.metrics.record_checkpoint(step, size=size, seconds=seconds)
        self.progress.record_checkpoint(step, uri)
        log.info("checkpoint of step %d saved: %s", step, uri)

    def record_failed_save(self, error: Exception) -> None:
        """A checkpoint could not be saved; training goes on."""
        self.metrics.record_failed_save()
        self.progress.record_failed_save(describe(error))

    def record_save_wait(self, seconds: float, every: int) -> None:
        """Training waited `seconds` for a save before the next, `every` steps later, was due."""
        self.progress.record_save_wait(seconds, every)
        if seconds > 1:
            log.info("training waited %.1f s for a save (spec.checkpoints.every)", seconds)

    def record_evaluation(
        self, step: int, scores: Mapping[str, float], *, score: float, best: BestCheckpoint
    ) -> None:
        """The model of `step` was evaluated.

        Args:
            step: Optimizer steps over all attempts.
            scores: Means over the subjects, by name.
            score: The one that the best checkpoint is chosen by.
            best: The best checkpoint so far.
        """
        self.metrics.record_evaluation(score, best_step=best.step, best_score=best.score)
        loss = scores.get("validationLoss")
        self.progress.record_evaluation(best, loss)
        if loss is not None:
            self.record_validation_loss(step, loss)
        self.trackers.log(step, {"scores/selection": score})
        log.info(
            "evaluated step %d: score %.4g (%s); the best is %.4g of step %d",
            *(step, score, ", ".join(f"{name} {value:.3f}" for name, value in scores.items())),
            *(best.score, best.step),
        )

    def record_validation_loss(self, step: int, loss: float) -> None:
        """The loss on held-out images, of the model of `step`."""
        self.metrics.record_validation_loss(loss)
        self.trackers.log(step, {"scores/validationLoss": loss})
        log.info("validation loss of step %d: %.5f", step, loss)

    def record_samples(self, step: int, uri: str, grid: Image.Image) -> None:
        """A grid of samples was written to `uri`. Rank 0 alone."""
        self.progress.record_samples(uri)
        log.info("samples of step %d: %s", step, uri)
        self.trackers.images(step, grid)

    def record_scores(self, scores: Scores) -> None:
        """The model was scored. Rank 0 alone."""
        named: dict[str, float] = {}
        for subject in scores.subjects:
            for name, values in subject.scores.items():
                estimate = values.trained if scores.step else values.base
                if estimate is not None:
                    self.metrics.record_score(subject.identifier, name, estimate.value)
                    named[f"scores/{subject.identifier}/{name}"] = estimate.value
        self.trackers.log(scores.step, named)


def _sum_over_gpus(read: Callable[[int], int]) -> int:
    """A sum over all visible GPUs, of which this process uses one."""
    # CUDA's current device is per thread: the server's threads do not know which one is used.
    return sum(read(gpu) for gpu in range(torch.cuda.device_count()))


def write_json(storage: Storage, uri: str, value: object) -> None:
    """Write an indented JSON file; raises `StorageError` when it cannot be written."""
    storage.write(uri, json.dumps(value, indent=2).encode())
