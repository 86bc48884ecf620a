"""Gets losses from the device to people without making a step wait.

The losses of step k are copied to the host while step k+1 runs, added over the ranks while step
k+2 is queued, and only then read: by then they have arrived. Requests to stop travel with them, so
that all ranks learn of one at the same step, and so does how many phases of its saves each rank has
finished (see `checkpoint.background`). What is read is therefore two steps old; `flush` catches up.
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
from dreambooth_trainer.objectives.ddpm import Losses
from dreambooth_trainer.process.distributed import PendingSum, Ranks
from dreambooth_trainer.process.errors import NotFiniteError
from dreambooth_trainer.process.signals import StopSignal
from dreambooth_trainer.telemetry.history import StepReport
from dreambooth_trainer.training.module import DreamBooth


@dataclass(frozen=True)
class _Copying:
    """Losses, and the gradient's norm, on their way to the host."""

    step: int
    rate: float
    seconds: float
    waited: float
    values: Tensor
    arrived: torch.cuda.Event | None


class StepReporter(pl.Callback):
    """Delivers a StepReport per optimizer step, in order, on every rank; raises `NotFiniteError`.

    `step` is the newest step that was delivered. `finished_phases()` is how many phases of its
    saves this rank has finished, and `finished_phases` their sum over the ranks.
    `images(step, rank)` names what a rank trained on in an optimizer step (from 1).
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
        self._copying: deque[_Copying] = deque()
        self._adding: deque[tuple[_Copying, PendingSum]] = deque()
        self._sum: Tensor | None = None
        self._began = 0.0
        self._waited = 0.0

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Start the step's clock."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._began, self._waited, self._sum = time.perf_counter(), 0.0, None
        self._waited += self._stream.wait_seconds

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
        values = _stack(module.losses) / trainer.accumulate_grad_batches
        self._sum = values if self._sum is None else self._sum + values
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        seconds = time.perf_counter() - self._began + self._waited
        rate = module.learning_rate
        assert module.gradient_norm is not None
        values = torch.cat([self._sum, module.gradient_norm.float().reshape(1)])
        self._copying.append(_copy(module.steps_done, rate, seconds, self._waited, values))
        self._advance(keep=1)

    def flush(self) -> None:
        """Deliver everything up to the present step."""
        self._advance(keep=0)

    def _advance(self, keep: int) -> None:
        while len(self._copying) > keep:
            copied = self._copying.popleft()
            if copied.arrived is not None:
                copied.arrived.synchronize()
            extra = torch.tensor([float(self._stop.requested), float(self._own_finished_phases())])
            message = torch.cat([copied.values, extra])
            self._adding.append((copied, self._ranks.start_sum(message)))
        while len(self._adding) > keep:
            self._read(*self._adding.popleft())

    def _read(self, copied: _Copying, pending: PendingSum) -> None:
        *losses, norm, stops, finished = pending.wait().tolist()
        total, subject, prior = (value / self._ranks.topology.world_size for value in losses)
        report = StepReport(
            copied.step, total, subject, prior, copied.rate, copied.seconds, copied.waited
        )
        self._check_finite(report, norm, copied)
        self.stop_agreed |= stops > 0
        self.step, self.finished_phases = report.step, round(finished)
        for deliver in self._deliver:
            deliver(report)

    def _check_finite(self, report: StepReport, norm: float, copied: _Copying) -> None:
        """Raise `NotFiniteError` for the loss, or for the gradient that has spoilt the weights
        though
        the loss was a number. Collective.
        """
        if not math.isfinite(report.loss):
            found = self._ranks.gather(not bool(copied.values[:3].isfinite().all()))
            ranks = [rank for rank, broken in enumerate(found) if broken]
            raise self._not_finite(_halves(report), report.step, ranks)
        if not math.isfinite(norm):
            everybody = range(self._ranks.topology.world_size)
            raise self._not_finite("the gradient is not finite", report.step, everybody)

    def _not_finite(self, what: str, step: int, ranks: Iterable[int]) -> NotFiniteError:
        """The error, with the images that `ranks` trained on in the step."""
        batch = [f"  rank {rank}: {uri}" for rank in ranks for uri in self._images(step, rank)]
        return NotFiniteError(
            f"{what} at step {step}; lower spec.training.learningRate, or use"
            " spec.training.precision bf16 instead of fp16. The last checkpoint is from before."
            " The images in the batch:\n" + "\n".join(batch)
        )


def _stack(losses: Losses) -> Tensor:
    return torch.stack([losses.total, losses.subject, losses.prior]).float()


def _copy(step: int, rate: float, seconds: float, waited: float, values: Tensor) -> _Copying:
    if values.device.type != "cuda":
        return _Copying(step, rate, seconds, waited, values, None)
    host = torch.empty(values.shape, pin_memory=True)
    host.copy_(values, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record()
    return _Copying(step, rate, seconds, waited, host, arrived)


def _halves(report: StepReport) -> str:
    """Which part of the loss is not finite, and what it is."""
    parts = {"subject": report.subject_loss, "prior": report.prior_loss}
    broken = {name: value for name, value in parts.items() if not math.isfinite(value)}
    names, values = " and the ".join(broken or ["total"]), broken.values() or [report.loss]
    return f"the {names} loss is {' and '.join(map(str, dict.fromkeys(values)))}"


class MeanLoss:
    """The mean loss of the steps since it was last asked for."""

    def __init__(self) -> None:
        self._losses: list[float] = []

    def add(self, report: StepReport) -> None:
        """Count one step."""
        self._losses.append(report.loss)

    def take(self) -> float | None:
        """The mean, None without a step; begins anew."""
        losses, self._losses = self._losses, []
        return statistics.fmean(losses) if losses else None
