"""Reports losses without making a step wait for the device or for another rank.

The losses of step k are copied to the host while step k+1 runs, summed over the ranks while step
k+2 is queued, and only then read: by then both have finished. A request to stop is summed with
them, so that all ranks see it at the same step, and so is the number of phases of its saves that
each rank has finished (see `checkpoint.phases`). Reports are therefore two steps late; `flush`
delivers the rest.
"""

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from torch import Tensor

from dreambooth_trainer.data.batches import Batch, BatchStream
from dreambooth_trainer.process.distributed import PendingSum, Ranks
from dreambooth_trainer.process.errors import NotFiniteError
from dreambooth_trainer.process.signals import StopSignal
from dreambooth_trainer.telemetry.history import StepReport
from dreambooth_trainer.training.module import DreamBooth


@dataclass(frozen=True)
class _StepValues:
    """One step on this rank; the copy of `values` to the host may not be complete yet."""

    step: int
    learning_rates: list[float]
    seconds: float
    data_wait_seconds: float
    values: Tensor
    """[4]: total, subject and prior loss, and the gradient's norm."""
    copied: torch.cuda.Event | None
    """Recorded after the copy; None: `values` are on the host already."""


class StepReporter(pl.Callback):
    """Delivers a StepReport per optimizer step, in order, on every rank.

    `step` is the newest step that was delivered. The argument `finished_phases` returns the number
    of phases of its saves that this rank has finished; the attribute is their sum over the ranks.
    `images(step, rank)` are the URIs that a rank trained on in an optimizer step (from 1).

    Raises:
        NotFiniteError: From Lightning's hooks and `flush`, for a loss or gradient that is NaN or
            infinite.
    """

    def __init__(
        self,
        ranks: Ranks,
        stop: StopSignal,
        stream: BatchStream,
        deliver: Sequence[Callable[[StepReport], None]],
        finished_phases: Callable[[], int],
        images: Callable[[int, int], Sequence[str]],
    ) -> None:
        self.stop_agreed = False
        self.step = self.finished_phases = 0
        self._own_finished_phases = finished_phases
        self._ranks = ranks
        self._stop = stop
        self._stream = stream
        self._deliver = deliver
        self._images = images
        self._copying: deque[_StepValues] = deque()
        self._summing: deque[tuple[_StepValues, PendingSum]] = deque()
        self._losses: Tensor | None = None
        self._began = 0.0
        self._learning_rates: list[float] = []
        self._data_wait_seconds = 0.0

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Start to measure the step's seconds."""
        assert isinstance(module, DreamBooth)
        if batch_idx % trainer.accumulate_grad_batches == 0:
            # The schedule has moved on by the time the step has ended.
            self._learning_rates = module.learning_rates
            # A step starts with the wait for its first micro-batch, which was before this hook.
            self._began = time.perf_counter() - self._stream.wait_seconds
            self._data_wait_seconds, self._losses = 0.0, None
        self._data_wait_seconds += self._stream.wait_seconds

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        outputs: object,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Add the micro-batch's losses; at the end of an optimizer step, pass them on."""
        assert isinstance(module, DreamBooth)
        assert module.losses is not None
        parts = [module.losses.total, module.losses.subject, module.losses.prior]
        losses = torch.stack(parts).float() / trainer.accumulate_grad_batches
        self._losses = losses if self._losses is None else self._losses + losses
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        assert module.gradient_norm is not None
        values = torch.cat([self._losses, module.gradient_norm.float().reshape(1)])
        host, copied = _start_copy(values)
        self._copying.append(
            _StepValues(
                step=module.steps_done,
                learning_rates=self._learning_rates,
                # Of the host, which runs at most one step ahead of the device: `_advance` waits for
                # the copy of the step before.
                seconds=time.perf_counter() - self._began,
                data_wait_seconds=self._data_wait_seconds,
                values=host,
                copied=copied,
            )
        )
        self._advance(keep=1)

    def flush(self) -> None:
        """Deliver everything up to the current step. Collective.

        Raises:
            NotFiniteError: A loss or gradient of these steps is NaN or infinite.
        """
        self._advance(keep=0)

    def _advance(self, keep: int) -> None:
        while len(self._copying) > keep:
            own = self._copying.popleft()
            if own.copied is not None:
                own.copied.synchronize()
            # In one message with the losses: a second collective per step would cost as much again.
            extra = torch.tensor([float(self._stop.requested), float(self._own_finished_phases())])
            message = torch.cat([own.values, extra])
            self._summing.append((own, self._ranks.start_sum(message)))
        while len(self._summing) > keep:
            self._deliver_step(*self._summing.popleft())

    def _deliver_step(self, own: _StepValues, pending: PendingSum) -> None:
        *losses, norm, stops, finished = pending.wait().tolist()
        total, subject, prior = (value / self._ranks.topology.world_size for value in losses)
        report = StepReport(
            step=own.step,
            loss=total,
            subject_loss=subject,
            prior_loss=prior,
            learning_rate=own.learning_rates[0],
            seconds=own.seconds,
            data_wait_seconds=own.data_wait_seconds,
            gradient_norm=norm / self._ranks.topology.world_size,  # the same on all ranks
            text_learning_rate=own.learning_rates[1] if len(own.learning_rates) > 1 else None,
        )
        # Before anything is delivered: `advance` commits no state that such a step may have spoilt.
        self._check_finite(report, norm, own)
        self.stop_agreed |= stops > 0
        self.step, self.finished_phases = report.step, round(finished)
        for deliver in self._deliver:
            deliver(report)

    def _check_finite(self, report: StepReport, norm: float, own: _StepValues) -> None:
        """Raise `NotFiniteError` for a loss or gradient that is not finite. Collective.

        The message of a loss lists the images of the ranks that had it. A gradient is summed over
        all ranks before its norm is taken, so that of any rank may be the cause; it spoils the
        weights even if the loss was finite.
        """
        if not math.isfinite(report.loss):
            # All ranks have the same sum, so all of them enter this collective.
            is_finite = self._ranks.gather(bool(own.values[:3].isfinite().all()))
            ranks = [rank for rank, finite in enumerate(is_finite) if not finite]
            raise self._not_finite(_describe_losses(report), report.step, ranks)
        if not math.isfinite(norm):
            all_ranks = range(self._ranks.topology.world_size)
            raise self._not_finite("the gradient is not finite", report.step, all_ranks)

    def _not_finite(self, problem: str, step: int, ranks: Iterable[int]) -> NotFiniteError:
        """The error, with the images that `ranks` trained on in the step."""
        batch = [f"  rank {rank}: {uri}" for rank in ranks for uri in self._images(step, rank)]
        advice = (
            "no weight has changed yet, so an image or spec.training.precision is the cause."
            if step == 1
            else "lower spec.training.learningRate, or use spec.training.precision bf16 instead of"
            " fp16. The last checkpoint is from before."
        )
        return NotFiniteError(
            f"{problem} at step {step}; {advice} The images in the batch:\n" + "\n".join(batch)
        )


def _start_copy(values: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """The values on the host, valid once the event has happened."""
    if values.device.type != "cuda":
        return values, None
    # Only copies to pinned memory are asynchronous.
    host = torch.empty(values.shape, pin_memory=True)
    host.copy_(values, non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record()
    return host, copied


def _describe_losses(report: StepReport) -> str:
    """The parts of the loss that are not finite, and their values."""
    parts = {"subject": report.subject_loss, "prior": report.prior_loss}
    failed = {name: value for name, value in parts.items() if not math.isfinite(value)}
    names, values = " and the ".join(failed or ["total"]), failed.values() or [report.loss]
    return f"the {names} loss is {' and '.join(map(str, dict.fromkeys(values)))}"


class MeanLoss:
    """The mean loss of the steps between two checkpoints."""

    def __init__(self) -> None:
        self._losses: list[float] = []

    def add(self, report: StepReport) -> None:
        """Add a step's loss."""
        self._losses.append(report.loss)

    def take(self) -> float | None:
        """The mean loss since the previous call; None without a step in between."""
        losses, self._losses = self._losses, []
        return statistics.fmean(losses) if losses else None
