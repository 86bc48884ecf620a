"""Runs Lightning's loop over the remaining steps."""

import logging
import warnings

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from torch.nn.parallel import DistributedDataParallel

from dreambooth_api.models.training import Training
from dreambooth_storage.upload.process import UploadProcess
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.checkpoint import (
    BackgroundSaver,
    CheckpointRef,
    CheckpointStore,
    SaveListener,
)
from dreambooth_trainer.checkpoint.retention import choose_none
from dreambooth_trainer.data.batches import BatchPlan, BatchStream
from dreambooth_trainer.data.dataset import Dataset
from dreambooth_trainer.evaluation.samples import SampleWriter
from dreambooth_trainer.models.sharding import is_sharded
from dreambooth_trainer.process.batch_split import BatchSplit
from dreambooth_trainer.process.distributed import COLLECTIVE_TIMEOUT
from dreambooth_trainer.process.host_memory import return_freed_memory
from dreambooth_trainer.selection.selector import CheckpointSelector
from dreambooth_trainer.telemetry.transfers import TransferTelemetry
from dreambooth_trainer.training.callbacks import (
    EvaluateCheckpoints,
    HeartbeatCallback,
    RestoreSignalHandler,
    SaveCheckpoints,
    SeedDropout,
    TimedCallback,
    UpdateEma,
    WriteSamples,
)
from dreambooth_trainer.training.module import DreamBooth
from dreambooth_trainer.training.reporter import MeanLoss, StepReporter

# Lightning's names. "-true" variants of bf16 and fp16 would train the weights themselves in half
# precision, where small updates are rounded away.
PRECISIONS = {"bf16": "bf16-mixed", "fp16": "16-mixed", "fp32": "32-true"}


def fit(
    attempt: Attempt,
    module: DreamBooth,
    dataset: Dataset,
    store: CheckpointStore,
    writer: SampleWriter,
    batch: BatchSplit,
    selector: CheckpointSelector | None = None,
) -> None:
    """Train until the job's last step, or early stopping; the module stays on its device.

    Raises:
        StoppedError: The ranks were asked to stop; the state is saved.
        NotFiniteError: The loss or the gradient is NaN or infinite.
    """
    training = attempt.job.spec.training
    # An earlier attempt may have been stopped, or killed, between training this step and scoring.
    if selector is not None and selector.is_due(module.start):
        with module.averaged_weights():
            selector.evaluate(module.start)
    if module.start >= (selector.last_step if selector else training.steps):
        module.release_optimizer()
        return
    stream = _stream(attempt, module, dataset, batch)
    images = 2 if dataset.has_prior else 1
    attempt.telemetry.start_training(
        module.start, training.steps, stream.plan.global_batch * images
    )
    with _saver(attempt, store, selector) as saver, warnings.catch_warnings():
        losses = MeanLoss()
        reporter = StepReporter(
            attempt.ranks,
            attempt.stop,
            stream,
            [attempt.telemetry.record_step, losses.add],
            finished_phases=lambda: saver.finished_phases,
            images=lambda step, rank: dataset.uris(stream.rows(step - 1, rank)),
        )
        evaluating = EvaluateCheckpoints(selector, reporter) if selector else None
        save = SaveCheckpoints(
            saver,
            reporter,
            losses,
            every=attempt.job.spec.checkpoints.every,
            total_steps=training.steps,
            evaluations=selector,
            evaluating=evaluating,
        )
        callbacks = _callbacks(attempt, writer, reporter, evaluating, save)
        trainer = _trainer(attempt, module, callbacks, batch.accumulation)
        # Lightning 2.6 calls what torch 2.13 deprecates; users cannot change that.
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
        return_freed_memory()  # what imports and loading have left
        trainer.fit(module, train_dataloaders=stream)
    # Reports are two steps late, and the losses of the last steps belong into the history.
    reporter.flush()
    module.release_optimizer()
    return_freed_memory()


def _saver(
    attempt: Attempt, store: CheckpointStore, selector: CheckpointSelector | None
) -> BackgroundSaver:
    return BackgroundSaver(
        store,
        UploadProcess(attempt.storage.settings, TransferTelemetry(attempt.telemetry.metrics)),
        keep=attempt.job.spec.checkpoints.keep,
        listener=_SaveReporter(attempt),
        choose=selector.choose if selector else choose_none,
    )


class _SaveReporter(SaveListener):
    """Stores the history with each checkpoint, and reports saves to telemetry."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt

    def checkpoint_committed(self) -> None:
        # The history may be a few steps ahead of the checkpoint: `History.resume` cuts it.
        telemetry = self._attempt.telemetry
        self._attempt.storage.write(self._attempt.layout.history, telemetry.history.text().encode())
        telemetry.trackers.sync()

    def checkpoint_saved(self, reference: CheckpointRef, seconds: float) -> None:
        # The metric sums up over ranks; shards differ by less than one element.
        size = reference.manifest.total_bytes // self._attempt.topology.world_size
        self._attempt.telemetry.record_checkpoint(
            reference.step, reference.uri, size=size, seconds=seconds
        )

    def save_failed(self, error: Exception) -> None:
        self._attempt.telemetry.record_failed_save(error)

    def training_waited(self, seconds: float) -> None:
        self._attempt.telemetry.record_save_wait(seconds, self._attempt.job.spec.checkpoints.every)


def _stream(
    attempt: Attempt, module: DreamBooth, dataset: Dataset, batch: BatchSplit
) -> BatchStream:
    training, topology = attempt.job.spec.training, attempt.topology
    plan = BatchPlan(
        start=module.start,
        stop=training.steps,
        accumulation=batch.accumulation,
        local_batch=batch.local,
        rank=topology.rank,
        world_size=topology.world_size,
    )
    return BatchStream(
        dataset.sampler(plan.global_batch, module.latent_shape, module.objective),
        plan,
        noise_offset=training.noise_offset,
        pin_memory=attempt.device.type == "cuda",
    )


def _callbacks(
    attempt: Attempt,
    writer: SampleWriter,
    reporter: StepReporter,
    evaluating: EvaluateCheckpoints | None,
    save: SaveCheckpoints,
) -> list[pl.Callback]:
    """The callbacks, in the order in which they run after a step."""
    # Evaluations come before saves: the state that a decision ends the training with is saved.
    # EMA comes before saves and samples, which use its averages; the reporter before the save,
    # which reads the number of finished phases from it.
    spec = attempt.job.spec
    return [
        RestoreSignalHandler(attempt.stop),
        HeartbeatCallback(),
        SeedDropout(spec.training.seed, attempt.topology.rank),
        UpdateEma(),
        reporter,
        *([evaluating] if evaluating else []),
        TimedCallback(save, attempt.telemetry.metrics.record_checkpoint_wait),
        WriteSamples(spec.samples.every, lambda: save.last_step, lambda step: writer.write(step)),
    ]


def _trainer(
    attempt: Attempt, module: DreamBooth, callbacks: list[pl.Callback], accumulation: int
) -> pl.Trainer:
    training: Training = attempt.job.spec.training
    topology = attempt.topology
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    return pl.Trainer(
        accelerator="gpu" if attempt.device.type == "cuda" else "cpu",
        devices=topology.ranks_per_node if topology.world_size > 1 else 1,
        num_nodes=topology.nodes,
        strategy=_strategy(attempt, module),
        # Named, as Lightning only recognises torchrun by variables that the launcher does not set.
        plugins=[TorchElasticEnvironment()] if topology.world_size > 1 else None,
        precision=PRECISIONS[training.precision],  # type: ignore[arg-type]
        max_steps=training.steps - module.start,
        max_epochs=-1,
        accumulate_grad_batches=accumulation,
        callbacks=callbacks,
        # This project has its own checkpoints, logs, progress and sampler.
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


class _StaysOnDevice(Strategy):
    """A strategy that leaves the model where it is, and frees the moments, at the end of training.

    Lightning's copy both to the host, which may not have the memory; sampling, which follows, needs
    the model where it was.
    """

    def teardown(self) -> None:
        """Lightning's hook at the end of training, and after an error."""
        self.optimizers = []
        self.lr_scheduler_configs = []  # they refer to the optimizer
        # Lightning moves the module that it finds; the hooks that follow need it again.
        module, self._lightning_module = self._lightning_module, None
        super().teardown()
        self._lightning_module = module


class _SingleDevice(_StaysOnDevice, SingleDeviceStrategy):
    """One rank."""


class _Distributed(_StaysOnDevice, DDPStrategy):
    """Several ranks."""

    def configure_ddp(self) -> None:
        """Lightning's hook that wraps the model in DDP."""
        super().configure_ddp()
        assert isinstance(self.model, DistributedDataParallel)
        # DDP would send rank 0's buffers to all before each forward pass. None ever changes, and
        # quantized weights are buffers.
        self.model.broadcast_buffers = False


class _Sharded(_Distributed):
    """Several ranks that have divided the denoiser, which FSDP's own hooks keep in step."""

    def configure_ddp(self) -> None:
        """Lightning's hook that wraps the model in DDP."""


def _strategy(attempt: Attempt, module: DreamBooth) -> Strategy:
    if attempt.topology.world_size == 1:
        return _SingleDevice(device=attempt.device)
    if is_sharded(module.denoiser):
        return _Sharded(timeout=COLLECTIVE_TIMEOUT)
    text = attempt.job.spec.training.text_encoder
    return _Distributed(
        # Gradients that are views of the buckets save their copy: 4 bytes per trained parameter.
        gradient_as_bucket_view=True,
        timeout=COLLECTIVE_TIMEOUT,
        # A text encoder that has stopped has no gradients, and DDP would wait for them.
        find_unused_parameters=text.method != "frozen" and text.stop_fraction < 1,
    )
