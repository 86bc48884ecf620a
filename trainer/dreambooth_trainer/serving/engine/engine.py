"""Makes the images of requests, batch by batch, in one thread that owns the device."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import torch
from PIL import Image

from dreambooth_storage import StorageError
from dreambooth_trainer.models.adapters.trainable import PRECISIONS
from dreambooth_trainer.models.family import Family
from dreambooth_trainer.models.generate import ImageRequest, generate_images
from dreambooth_trainer.models.prompts import PromptTable
from dreambooth_trainer.process.chunks import images_per_pass
from dreambooth_trainer.process.errors import TrainerError
from dreambooth_trainer.process.signals import StoppedError
from dreambooth_trainer.resolved_job import ResolvedSpec
from dreambooth_trainer.serving.engine.loaded import Loaded, LoadedModels
from dreambooth_trainer.serving.engine.mixing import CannotMixError, mixed
from dreambooth_trainer.serving.engine.queue import (
    BatchKey,
    Failed,
    Finished,
    Item,
    ModelUse,
    Partial,
    Ticket,
    WorkQueue,
    partial_steps,
)
from dreambooth_trainer.serving.metrics import ServingMetrics

log = logging.getLogger(__name__)

SMOOTHING = 0.8
FIRST_GUESS_SECONDS = 5.0
"""For an image, before the first one was made."""


class Engine:
    """The queue, and the thread that works on it.

    Args:
        models: Loads results.
        queued_images: Images that may wait.
        metrics: Counts.
    """

    def __init__(self, models: LoadedModels, queued_images: int, metrics: ServingMetrics) -> None:
        self._models = models
        self._metrics = metrics
        self._queue = WorkQueue(queued_images, batch_size, self._models_together)
        self._never_mixed: set[str] = set()
        """Base models that turned out not to be able to."""
        self._seconds_per_image = FIRST_GUESS_SECONDS
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        metrics.watch_queue(lambda: len(self._queue))

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether requests are worked on."""
        return self._thread.is_alive()

    def submit(self, ticket: Ticket) -> None:
        """Add a request.

        Raises:
            QueueClosedError: The engine stops, or has died.
            QueueFullError: Too many images wait.
        """
        self._queue.put(ticket)

    @property
    def wait_seconds(self) -> int:
        """About how long it takes until the images that wait now are made, at least 1."""
        return max(1, round(len(self._queue) * self._seconds_per_image))

    def stop(self, seconds: float) -> None:
        """Finish what is under way, for so long; the rest is given up."""
        self._queue.close()
        self._thread.join(seconds)
        self._stopping = True
        self._thread.join()

    def _run(self) -> None:
        try:
            while batch := self._queue.take():
                self._work_on(batch)
        except Exception:
            log.exception("the engine has died")
        finally:
            fail(self._queue.drain(), Failed("the device of the server has failed", 503))

    def _work_on(self, batch: Sequence[Item]) -> None:
        """Make the images of a batch, or fail its requests; raises what no other batch survives."""
        began = time.monotonic()
        try:
            self._make(batch)
        except StoppedError:
            log.info("a batch was given up: nobody waits for its images")
            fail(batch, Failed("the server is stopping", 503))
        except (StorageError, TrainerError) as error:
            fail(batch, failure_of(error))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            fail(batch, Failed("the GPU has too little memory for images of this size", 503))
        except torch.AcceleratorError:
            # CUDA answers every later call with the same error, until the process ends.
            fail(batch, Failed("the device of the server has failed", 503))
            raise
        except Exception:
            log.exception("a batch has failed")
            fail(batch, Failed("internal error; the server's log has more", 500))
        else:
            taken = (time.monotonic() - began) / len(batch)
            self._seconds_per_image = SMOOTHING * self._seconds_per_image + (1 - SMOOTHING) * taken

    def _models_together(self, key: BatchKey) -> int:
        """Of how many results the images of a batch may be."""
        return 1 if key.base in self._never_mixed else self._models.capacity

    def _make(self, batch: Sequence[Item]) -> None:
        uses = self._load(batch)
        batch = [item for item in batch if item.ticket.use in uses]
        if not batch:
            return
        self._models.weigh([(loaded, use.weight) for use, loaded in uses.items()])
        key = batch[0].ticket.key
        plans = [partial_steps(each.ticket.partials, key.steps) for each in batch]

        def send_partials(step: int, decode: Callable[[int], Image.Image]) -> None:
            for number, (item, plan) in enumerate(zip(batch, plans, strict=True)):
                if step in plan and not item.ticket.cancelled:
                    partial = Partial(item.index, plan.index(step), decode(number))
                    item.ticket.send(partial)

        try:
            images = self._generate(uses, batch, key, send_partials)
        except CannotMixError:
            # Its layers are met before the first step is done: nothing was sent yet.
            self._never_mixed.add(key.base)
            for use in uses:
                self._make([item for item in batch if item.ticket.use == use])
            return
        self._metrics.batch_size.observe(len(batch))
        for item, image in zip(batch, images, strict=True):
            item.ticket.send(Finished(item.index, image))
            self._metrics.images.labels(item.ticket.use.result.id).inc()

    def _load(self, batch: Sequence[Item]) -> dict[ModelUse, Loaded]:
        """The results of a batch; requests for those that cannot be loaded are failed."""
        found = {}
        for use in dict.fromkeys(item.ticket.use for item in batch):
            try:
                found[use] = self._models.load(use.result)
            except (StorageError, TrainerError) as error:
                fail([item for item in batch if item.ticket.use == use], failure_of(error))
            else:
                self._metrics.loads.labels(str(found[use].was_loaded).lower()).inc()
        return found

    def _generate(
        self,
        uses: Mapping[ModelUse, Loaded],
        batch: Sequence[Item],
        key: BatchKey,
        on_step: Callable[[int, Callable[[int], Image.Image]], None],
    ) -> list[Image.Image]:
        loaded = [uses[item.ticket.use] for item in batch]
        family, spec = loaded[0].family, loaded[0].job.spec
        prompts = [item.ticket.prompt for item in batch]
        device = next(family.denoiser.parameters()).device
        precision = PRECISIONS[spec.training.precision]
        lowered = precision is not torch.float32
        autocast = torch.autocast(device.type, precision) if lowered else nullcontext()
        adapters = [each.adapter or "" for each in loaded]
        with (
            encoded(family, spec, prompts, key.negative_prompt),
            autocast,
            mixed(family.denoiser, adapters),
        ):
            return generate_images(
                family,
                [ImageRequest(item.ticket.prompt, item.seed) for item in batch],
                sampler=key.sampler,
                steps=key.steps,
                guidance_scale=key.guidance_scale,
                negative_prompt=key.negative_prompt,
                size=(key.width, key.height),
                should_stop=lambda: self._stopping or all(item.ticket.cancelled for item in batch),
                on_step=on_step,
            )


def failure_of(error: StorageError | TrainerError) -> Failed:
    """What the clients of a result that cannot be used are told."""
    return Failed(str(error), 502 if isinstance(error, StorageError) else 400)


def batch_size(key: BatchKey) -> int:
    """Images that are made together: as in training, so that the pixels are the same."""
    return images_per_pass(max(key.width, key.height))


def fail(batch: Sequence[Item], failure: Failed) -> None:
    """Tell each request of a batch that it has failed, and give up its other images."""
    for ticket in {item.ticket for item in batch}:
        ticket.cancelled = True
        ticket.send(failure)


@contextmanager
def encoded(
    family: Family, spec: ResolvedSpec, prompts: Sequence[str], negative: str
) -> Iterator[None]:
    """Within, prompts are looked up, each encoded by itself and in full precision as in training.

    Text encoders that were trained encode the prompts of a batch together, also in training.
    """
    if spec.trains_text:
        yield
        return
    rows = {}
    for is_negative, text in [(False, each) for each in dict.fromkeys(prompts)] + [
        (True, negative)
    ]:
        [row] = family.encode_rows([text], is_negative=is_negative)
        rows[is_negative, text] = {name: part.cpu() for name, part in row.items()}
    family.prompt_table = PromptTable(rows)
    try:
        yield
    finally:
        family.prompt_table = None
