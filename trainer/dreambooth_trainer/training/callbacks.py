"""Lightning callbacks between steps: EMA, dropout's seeds, checkpoints, samples, stopping."""

import hashlib
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import pytorch_lightning as pl
import torch

from dreambooth_trainer.checkpoint import BackgroundSaver
from dreambooth_trainer.data.batches import Batch
from dreambooth_trainer.process import heartbeat
from dreambooth_trainer.process.host_memory import return_freed_memory
from dreambooth_trainer.process.signals import StoppedError, StopSignal
from dreambooth_trainer.training.module import DreamBooth
from dreambooth_trainer.training.reporter import MeanLoss, StepReporter


class StepCallback(pl.Callback):
    """Runs after each optimizer step, however many micro-batches it has."""

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
        # Lightning has no hook after an optimizer step. The stream is one epoch of whole steps, so
        # that each step has all of its micro-batches.
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.after_step(module, module.steps_done)

    def after_step(self, module: DreamBooth, step: int) -> None:
        """Called after optimizer step number `step` (from 1); raises what ends the training."""
        raise NotImplementedError


class TimedCallback(StepCallback):
    """Measures the seconds that another callback takes after each step."""

    def __init__(self, inner: StepCallback, observe: Callable[[float], None]) -> None:
        self._inner = inner
        self._observe = observe

    def after_step(self, module: DreamBooth, step: int) -> None:
        """Run the other callback, and report its time in seconds."""
        began = time.perf_counter()
        self._inner.after_step(module, step)
        self._observe(time.perf_counter() - began)


class RestoreSignalHandler(pl.Callback):
    """Replaces Lightning's handler of SIGTERM.

    Lightning's starts a collective between others, whose order then differs from other ranks': they
    would deadlock.
    """

    def __init__(self, stop: StopSignal) -> None:
        self._stop = stop

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Lightning has installed its handlers by now."""
        self._stop.install()


class HeartbeatCallback(pl.Callback):
    """Sends a heartbeat after each micro-batch: steps alone may be minutes apart."""

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
    """Seeds torch's generator from (seed, step, micro-batch, rank).

    A resumed run therefore drops the same units. All other random numbers come from the sampler;
    only dropout masks depend on the rank.
    """

    def __init__(self, seed: int, rank: int) -> None:
        self._seed = seed
        self._rank = rank

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Seed the generator for one micro-batch."""
        assert isinstance(module, DreamBooth)
        micro = batch_idx % trainer.accumulate_grad_batches
        # Hashed, as similar seeds can give correlated streams in some generators.
        text = f"{self._seed}/{module.steps_done}/{micro}/{self._rank}"
        torch.manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]))


class UpdateEma(StepCallback):
    """Updates the exponential moving average of the weights after each optimizer step."""

    def after_step(self, module: DreamBooth, step: int) -> None:
        """Update the average, where one is kept."""
        if module.ema:
            module.ema.update(step)


class Evaluations(Protocol):
    """The evaluations during training, and what follows from them; see `selection`."""

    @property
    def last_step(self) -> int:
        """The step at which training ends: the job's last one, or that of early stopping."""

    def is_due(self, step: int) -> bool:
        """Whether the model is evaluated after `step`; the last step is not among them."""

    def evaluate(self, step: int) -> None:
        """Score the model in its current state. Collective; may raise `StoppedError`."""


class EvaluateCheckpoints(StepCallback):
    """Evaluates the averaged weights when that is due.

    `was_stopped` says that the ranks were asked to stop meanwhile. They then stop at this step,
    whose evaluation the next attempt makes up for: the best checkpoint is the same.
    """

    def __init__(self, evaluations: Evaluations, reporter: StepReporter) -> None:
        self._evaluations = evaluations
        self._reporter = reporter
        self.was_stopped = False

    def after_step(self, module: DreamBooth, step: int) -> None:
        """Evaluate the model where it is due.

        Raises:
            NotFiniteError: The loss or gradient of a step until now is NaN or infinite.
        """
        if not self._evaluations.is_due(step):
            return
        # Reports are two steps late: weights that are not finite have no scores.
        self._reporter.flush()
        try:
            with module.averaged_weights():
                self._evaluations.evaluate(step)
        except StoppedError:
            self.was_stopped = True


class SaveCheckpoints(StepCallback):
    """Saves every `every` steps in the background, and after each evaluation.

    Just before a save is due, waits until the one before is durable: a kill at any time then costs
    fewer than 2 * `every` steps (2 where `every` is 1), unless storage is down.

    At the last step, and when the ranks have agreed to stop, waits until the save is durable.
    """

    def __init__(
        self,
        saver: BackgroundSaver,
        reporter: StepReporter,
        losses: MeanLoss,
        *,
        every: int,
        total_steps: int,
        evaluations: Evaluations | None = None,
        evaluating: EvaluateCheckpoints | None = None,
    ) -> None:
        self._saver = saver
        self._reporter = reporter
        self._losses = losses
        self._every = every
        self._total_steps = total_steps
        self._evaluations = evaluations
        self._evaluating = evaluating
        self._prepared = False

    @property
    def last_step(self) -> int:
        """The step at which training ends, as far as that is known."""
        return self._evaluations.last_step if self._evaluations else self._total_steps

    @property
    def _must_stop(self) -> bool:
        stopped = self._evaluating is not None and self._evaluating.was_stopped
        return self._reporter.stop_agreed or stopped

    def _is_due(self, step: int) -> bool:
        # The best checkpoint can only be exported if it was saved.
        evaluated = self._evaluations is not None and self._evaluations.is_due(step)
        return step % self._every == 0 or evaluated

    def after_step(self, module: DreamBooth, step: int) -> None:
        """Save where it is due.

        Raises:
            StoppedError: The ranks have agreed to stop, and the state is saved.
            NotFiniteError: The loss or gradient of a step until now is NaN or infinite.
        """
        # After the first step, as AdamW creates its moments there.
        if not self._prepared:
            self._saver.prepare(module.state())
            self._prepared = True
        self._saver.advance(finished=self._reporter.finished_phases, step=self._reporter.step)
        if step == self.last_step or self._must_stop:
            self._finish(module, step)
            return
        if self._is_due(step + 1) and self._saver.should_wait:
            # A commit needs a later loss than the saved state's, and reports are two steps late.
            self._reporter.flush()
            self._saver.wait_until_durable()
        if self._is_due(step):
            self._saver.begin(step, module.state(), loss=self._losses.take())

    def _finish(self, module: DreamBooth, step: int) -> None:
        # Reports are two steps late: check the newest losses before their weights become durable.
        self._reporter.flush()
        # No step follows that needs them, and the copy of the state needs as much again.
        module.zero_grad(set_to_none=True)
        return_freed_memory()
        self._saver.finish(step, module.state(), loss=self._losses.take())
        if step < self.last_step:
            raise StoppedError(f"asked to stop; saved at step {step}")
        module.trainer.should_stop = True


class WriteSamples(StepCallback):
    """Writes samples every `every` steps; the evaluation writes those of the last step."""

    def __init__(
        self, every: int | None, last_step: Callable[[], int], write: Callable[[int], None]
    ) -> None:
        self._every = every
        self._last_step = last_step
        self._write = write

    def after_step(self, module: DreamBooth, step: int) -> None:
        """Write samples of the averaged weights when they are due."""
        # When the ranks are asked to stop meanwhile, they skip the samples and train on to the step
        # at which `reporter` lets all of them stop: the state is saved only there.
        if self._every and step % self._every == 0 and step < self._last_step():
            with module.averaged_weights(), suppress(StoppedError):
                self._write(step)
