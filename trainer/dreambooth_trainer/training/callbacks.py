"""What happens between steps: the weights' average, repeatable dropout, checkpoints, samples,
stopping.
"""

import hashlib
import time
from collections.abc import Callable
from contextlib import suppress

import pytorch_lightning as pl
import torch

from dreambooth_trainer.checkpoint import BackgroundSaver
from dreambooth_trainer.data.batches import Batch
from dreambooth_trainer.process import heartbeat
from dreambooth_trainer.process.signals import StoppedError, StopSignal
from dreambooth_trainer.training.module import DreamBooth
from dreambooth_trainer.training.reporter import MeanLoss, StepReporter


class StepCallback(pl.Callback):
    """Acts once an optimizer step has ended, however many micro-batches it had."""

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        outputs: object,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Lightning's hook after each micro-batch."""
        assert isinstance(module, DreamBooth)
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.after_step(module, module.steps_done)

    def after_step(self, module: DreamBooth, step: int) -> None:
        """Optimizer step number `step` (from 1) has ended."""
        raise NotImplementedError


class TimedCallback(StepCallback):
    """Another callback, and how long it takes after each step."""

    def __init__(self, inner: StepCallback, took: Callable[[float], None]) -> None:
        self._inner = inner
        self._took = took

    def after_step(self, module: DreamBooth, step: int) -> None:
        """Act, and tell how long it took in seconds."""
        began = time.perf_counter()
        self._inner.after_step(module, step)
        self._took(time.perf_counter() - began)


class RestoreSignalHandler(pl.Callback):
    """Takes SIGTERM back from Lightning, whose handler starts a collective in the middle of
    others.
    """

    def __init__(self, stop: StopSignal) -> None:
        self._stop = stop

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Lightning has installed its handlers by now."""
        self._stop.install()


class HeartbeatCallback(pl.Callback):
    """A heartbeat for each micro-batch: steps alone may be minutes apart."""

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        outputs: object,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Lightning's hook after each micro-batch."""
        assert isinstance(module, DreamBooth)
        heartbeat.finish_step(module.steps_done)


class SeedDropout(pl.Callback):
    """Seeds torch's generator from (seed, step, micro-batch, rank), so that a resumed run drops
    the same.

    Everything else that is random comes from the sampler. Dropout masks alone depend on the rank.
    """

    def __init__(self, seed: int, rank: int) -> None:
        self._seed = seed
        self._rank = rank

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Seed the generator."""
        assert isinstance(module, DreamBooth)
        micro = batch_idx % trainer.accumulate_grad_batches
        text = f"{self._seed}/{module.steps_done}/{micro}/{self._rank}"
        torch.manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]))


class UpdateEma(StepCallback):
    """Updates the module's weight average after each optimizer step."""

    def after_step(self, module: DreamBooth, step: int) -> None:
        """Update the average."""
        if module.average:
            module.average.update(step)


class SaveCheckpoints(StepCallback):
    """Saves every so many steps in the background; at the end, and when the ranks have agreed to
    stop, waits for it.
    """

    def __init__(
        self,
        saver: BackgroundSaver,
        reporter: StepReporter,
        losses: MeanLoss,
        *,
        every: int,
        total_steps: int,
    ) -> None:
        self._saver = saver
        self._reporter = reporter
        self._losses = losses
        self._every = every
        self._total_steps = total_steps
        self._prepared = False

    def after_step(self, module: DreamBooth, step: int) -> None:
        """Save if it is time; raise `StoppedError` when asked to stop."""
        if not self._prepared:  # the optimizer has its state now
            self._saver.prepare(module.state())
            self._prepared = True
        self._saver.advance(finished=self._reporter.finished_phases, step=self._reporter.step)
        if step == self._total_steps or self._reporter.stop_agreed:
            self._finish(module, step)
        elif step % self._every == 0:
            self._saver.begin(step, module.state(), loss=self._losses.take())

    def _finish(self, module: DreamBooth, step: int) -> None:
        # A loss that is not finite must be found before its weights are made durable.
        self._reporter.flush()
        self._saver.finish(step, module.state(), loss=self._losses.take())
        if step < self._total_steps:
            raise StoppedError(f"asked to stop; saved at step {step}")


class WriteSamples(StepCallback):
    """Makes sample images every so many steps; those before and after training are made outside
    the loop.
    """

    def __init__(self, every: int | None, total_steps: int, make: Callable[[int], None]) -> None:
        self._every = every
        self._total_steps = total_steps
        self._make = make

    def after_step(self, module: DreamBooth, step: int) -> None:
        """Make samples if it is time. Who is asked to stop meanwhile leaves them, and trains on
        to the step that all ranks agree on.
        """
        if self._every and step % self._every == 0 and step < self._total_steps:
            with module.averaged(), suppress(StoppedError):
                self._make(step)
