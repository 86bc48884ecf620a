"""Writes sample images of the job's prompts, always from the same seeds."""

from collections.abc import Callable

from PIL import Image

from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.data.png import decode_png, encode_png
from dreambooth_trainer.evaluation.grid import before_after, grid
from dreambooth_trainer.evaluation.image_generator import ImageGenerator
from dreambooth_trainer.models.generate import ImageRequest
from dreambooth_trainer.resolved_job import sample_settings
from dreambooth_trainer.telemetry.telemetry import write_json


class SampleWriter:
    """Writes samples of `spec.samples.prompts`; by default, of each subject's instance prompt."""

    def __init__(
        self, generator: ImageGenerator, attempt: Attempt, check_owner: Callable[[], None]
    ) -> None:
        self._generator = generator
        self._attempt = attempt
        self._check_owner = check_owner
        self._storage = attempt.storage
        self._layout = attempt.layout
        spec = attempt.job.spec
        self._count = spec.samples.count
        self._seed = spec.samples.seed
        self._prompts = list(spec.samples.prompts) or [each.prompt for each in spec.subjects]

    def write(self, step: int) -> None:
        """Write `samples/step-<step>/<prompt>-<index>.png`, a contact sheet, and their settings.

        Collective.

        Raises:
            FencedError: A newer attempt owns the output; nothing is written.
            StoppedError: A rank was asked to stop; nothing is written.
        """
        seeds = range(self._seed, self._seed + self._count)
        images = self._generator.generate(
            [ImageRequest(prompt, seed) for prompt in self._prompts for seed in seeds]
        )
        rows = [images[i : i + self._count] for i in range(0, len(images), self._count)]
        # After generating, which takes long: an attempt that was superseded meanwhile must not
        # overwrite the newer one's samples.
        self._check_owner()
        if self._attempt.topology.rank == 0:
            for prompt, row in enumerate(rows):
                for index, image in enumerate(row):
                    self._storage.write(self._uri(step, prompt, index), encode_png(image))
            sheet, uri = grid(rows, labels=self._prompts), self._layout.grid(step)
            self._storage.write(uri, encode_png(sheet))
            # A later attempt may have other prompts: a page shows no image below one of them.
            settings = self._layout.sample_settings(step)
            write_json(self._storage, settings, sample_settings(self._attempt.job))
            self._attempt.telemetry.record_samples(step, uri, sheet)

    def compare(self, before: int, after: int) -> None:
        """Write `samples/before-after.png` from the samples of two steps. Rank 0 acts.

        Raises:
            ObjectNotFoundError: There are no samples of one of the steps.
        """
        if self._attempt.topology.rank == 0:
            sheet = before_after(self._read(before), self._read(after), labels=self._prompts)
            self._storage.write(self._layout.before_after, encode_png(sheet))

    def _read(self, step: int) -> list[list[Image.Image]]:
        return [
            [
                decode_png(self._storage.read(self._uri(step, prompt, index)))
                for index in range(self._count)
            ]
            for prompt in range(len(self._prompts))
        ]

    def _uri(self, step: int, prompt: int, index: int) -> str:
        return f"{self._layout.samples(step)}/{prompt}-{index}.png"
