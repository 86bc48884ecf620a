"""The stream of micro-batches that one rank trains on, prepared ahead of time in a thread."""

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from dreambooth_trainer.data.bucket_sampler import BucketSampler
from dreambooth_trainer.data.sampler import TrainingSampler

Batch = dict[str, Tensor]
"""row, timestep, drop_caption, caption_order and empty_prompt [N]; latent_noise and noise
[N, C, h, w], where h and w are those of the step's images.
N = 2B with prior preservation: B subject samples, then the B class samples that belong to them."""

BATCHES_AHEAD = 3
"""More would only take memory: drawing a batch takes far less time than a step."""


@dataclass(frozen=True)
class BatchPlan:
    """The steps to train, and this rank's share of each: batch sizes in subject images."""

    start: int
    """Optimizer steps done."""
    stop: int
    accumulation: int
    """Micro-batches per optimizer step."""
    local_batch: int
    """Subject images per rank and micro-batch."""
    rank: int
    world_size: int

    @property
    def global_batch(self) -> int:
        """Subject images per optimizer step over all ranks."""
        return self.local_batch * self.world_size * self.accumulation

    def positions(self, micro: int, rank: int | None = None) -> range:
        """Positions in the global batch of a rank's micro-batch; this rank's by default.

        Returns:
            `local_batch` consecutive positions; together, ranks and micro-batches cover the global
            batch exactly once.
        """
        place = micro * self.world_size + (self.rank if rank is None else rank)
        return range(place * self.local_batch, (place + 1) * self.local_batch)

    def __len__(self) -> int:
        """Number of micro-batches of this rank."""
        return (self.stop - self.start) * self.accumulation


def make_batch(
    sampler: TrainingSampler | BucketSampler, noise_offset: float, step: int, positions: range
) -> Batch:
    """The micro-batch of B positions of a step's global batch; see `Batch` for the shapes.

    Args:
        sampler: Draws the samples.
        noise_offset: Scale of noise that is constant over a channel (0: none).
        step: Optimizer steps before this one.
        positions: In the global batch.
    """
    pairs = [sampler.draw(step, position) for position in positions]
    draws = [subject for subject, _ in pairs] + [prior for _, prior in pairs if prior is not None]
    return {
        "row": torch.tensor([draw.row for draw in draws]),
        "timestep": torch.tensor(
            [draw.timestep for draw in draws], dtype=sampler.objective.timestep_dtype
        ),
        "drop_caption": torch.tensor([draw.drop_caption for draw in draws]),
        "caption_order": torch.tensor([draw.caption_order for draw in draws]),
        "empty_prompt": torch.tensor([draw.empty_prompt for draw in draws]),
        "latent_noise": torch.from_numpy(np.stack([draw.latent_noise for draw in draws])),
        # The sum is the noise and the target: the model learns to change an image's mean too.
        "noise": torch.from_numpy(
            np.stack([draw.noise + noise_offset * draw.offset for draw in draws])
        ),
    }


@dataclass
class BatchStream:
    """Iterates over one rank's micro-batches.

    `wait_seconds` is the time that the training loop waited for the newest one, in seconds.
    """

    sampler: TrainingSampler | BucketSampler
    plan: BatchPlan
    noise_offset: float = 0.0
    pin_memory: bool = False
    wait_seconds: float = field(default=0.0, init=False)

    def __len__(self) -> int:
        return len(self.plan)

    def rows(self, step: int, rank: int) -> list[int]:
        """Rows of the cache that a rank trains on in a step (from 0), of subjects and classes."""
        # Drawn again rather than remembered: it is needed only for the message of a bad loss.
        pairs = [
            self.sampler.draw(step, position)
            for micro in range(self.plan.accumulation)
            for position in self.plan.positions(micro, rank)
        ]
        return [draw.row for pair in pairs for draw in pair if draw is not None]

    def __iter__(self) -> Iterator[Batch]:
        ready: queue.Queue[Batch | BaseException] = queue.Queue(BATCHES_AHEAD)
        stopped = threading.Event()
        threading.Thread(target=self._fill, args=(ready, stopped), daemon=True).start()
        try:
            for _ in range(len(self)):
                began = time.perf_counter()
                item = ready.get()
                self.wait_seconds = time.perf_counter() - began
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stopped.set()

    def _fill(self, ready: "queue.Queue[Batch | BaseException]", stopped: threading.Event) -> None:
        try:
            for batch in self._batches():
                # With a time-out: a consumer that has stopped never makes room in the queue.
                while not stopped.is_set():
                    try:
                        ready.put(batch, timeout=0.2)
                        break
                    except queue.Full:
                        continue
                if stopped.is_set():
                    return
        except BaseException as error:  # handed to the consumer, which raises it
            ready.put(error)

    def _batches(self) -> Iterator[Batch]:
        for step in range(self.plan.start, self.plan.stop):
            for micro in range(self.plan.accumulation):
                batch = make_batch(
                    self.sampler, self.noise_offset, step, self.plan.positions(micro)
                )
                # Copies from pageable memory would make the host wait for the device.
                yield {k: v.pin_memory() for k, v in batch.items()} if self.pin_memory else batch
