"""Makes the images of requests, batch by batch, in one thread that owns the device."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
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
from dreambooth_trainer.resolved_job import ResolvedTraining
from dreambooth_trainer.serving.catalog import Catalog
from dreambooth_trainer.serving.loaded import LoadedModels, Ready
from dreambooth_trainer.serving.metrics import ServingMetrics
from dreambooth_trainer.serving.work import (
    BatchKey,
    Failed,
    Finished,
    Item,
    Partial,
    Ticket,
    WorkQueue,
    partial_steps,
)

log = logging.getLogger(__name__)

SMOOTHING = 0.8
FIRST_GUESS_SECONDS = 5.0
"""For an image, before the first one was made."""


class Engine:
    """The queue, and the thread that works on it.

    Args:
        models: Loads results.
        catalog: Knows the results.
        queued_images: Images that may wait.
        metrics: Counts.
    """

    def __init__(
        self, models: LoadedModels, catalog: Catalog, queued_images: int, metrics: ServingMetrics
    ) -> None:
        self._models = models
        self._catalog = catalog
        self._metrics = metrics
        self._queue = WorkQueue(queued_images, batch_size)
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
        except StorageError as error:
            fail(batch, Failed(str(error), 502))
        except TrainerError as error:
            fail(batch, Failed(str(error), 400))
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

    def _make(self, batch: Sequence[Item]) -> None:
        key = batch[0].ticket.key
        result = self._catalog.find(key.model)
        if result is None:
            raise TrainerError(f"model {key.model}: is gone")
        ready = self._models.use(result, key.adapter_weight)
        self._metrics.loads.labels(str(ready.was_loaded).lower()).inc()
        self._metrics.batch_size.observe(len(batch))
        plans = [partial_steps(each.ticket.partials, key.steps) for each in batch]

        def send_partials(step: int, decode: Callable[[int], Image.Image]) -> None:
            for number, (item, plan) in enumerate(zip(batch, plans, strict=True)):
                if step in plan and not item.ticket.cancelled:
                    partial = Partial(item.index, plan.index(step), decode(number))
                    item.ticket.send(partial)

        images = self._generate(ready, batch, key, send_partials)
        for item, image in zip(batch, images, strict=True):
            item.ticket.send(Finished(item.index, image))
        self._metrics.images.labels(key.model).inc(len(batch))

    def _generate(
        self,
        ready: Ready,
        batch: Sequence[Item],
        key: BatchKey,
        on_step: Callable[[int, Callable[[int], Image.Image]], None],
    ) -> list[Image.Image]:
        training = ready.job.spec.training
        prompts = [item.ticket.prompt for item in batch]
        device = next(ready.family.denoiser.parameters()).device
        precision = PRECISIONS[training.precision]
        mixed = precision is not torch.float32
        autocast = torch.autocast(device.type, precision) if mixed else nullcontext()
        with encoded(ready.family, training, prompts, key.negative_prompt), autocast:
            return generate_images(
                ready.family,
                [ImageRequest(item.ticket.prompt, item.seed) for item in batch],
                sampler=key.sampler,
                steps=key.steps,
                guidance_scale=key.guidance_scale,
                negative_prompt=key.negative_prompt,
                size=(key.width, key.height),
                should_stop=lambda: self._stopping or all(item.ticket.cancelled for item in batch),
                on_step=on_step,
            )


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
    family: Family, training: ResolvedTraining, prompts: Sequence[str], negative: str
) -> Iterator[None]:
    """Within, prompts are looked up, each encoded by itself and in full precision as in training.

    Text encoders that were trained encode the prompts of a batch together, also in training.
    """
    if training.text_encoder.method != "frozen":
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
