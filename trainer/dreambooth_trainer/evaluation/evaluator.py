"""Scores the model: fidelity to the subject and to prompts, and preservation of the class."""

import json
import math
import statistics
from collections.abc import Iterator
from dataclasses import asdict

from PIL import Image
from torch import Tensor

from dreambooth_api.models.evaluation import Evaluation
from dreambooth_api.models.model import Model
from dreambooth_api.models.subject import Subject
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.data.images import load_images, read_pixels
from dreambooth_trainer.evaluation.clip_config import FIELD
from dreambooth_trainer.evaluation.clip_encoder import ClipEncoder
from dreambooth_trainer.evaluation.image_generator import ImageGenerator
from dreambooth_trainer.evaluation.scores import (
    Scores,
    diversity,
    mean_similarity,
    prompts_of,
    score_entry,
    without_identifiers,
)
from dreambooth_trainer.models.generate import ImageRequest
from dreambooth_trainer.models.source.fetch import fetched
from dreambooth_trainer.models.source.selection import select_transformers_files
from dreambooth_trainer.telemetry.telemetry import write_json


def load_evaluator(attempt: Attempt, generator: ImageGenerator) -> "Evaluator | None":
    """The evaluator of `spec.evaluation`, None without one. Collective.

    Raises:
        BadModelError: `spec.evaluation.model` cannot be loaded.
    """
    evaluation = attempt.job.spec.evaluation
    if evaluation is None:
        return None
    model = Model(source=evaluation.model)
    with fetched(model, attempt.storage, attempt.ranks, FIELD, select_transformers_files) as folder:
        clip = ClipEncoder(folder, attempt.device)
    return Evaluator(attempt, evaluation, generator, clip)


class Evaluator:
    """Scores every subject of a job, before and after training.

    Raises:
        BadDataError: The real images to compare with cannot be used.
    """

    def __init__(
        self, attempt: Attempt, evaluation: Evaluation, generator: ImageGenerator, clip: ClipEncoder
    ) -> None:
        self._attempt = attempt
        self._evaluation = evaluation
        self._generator = generator
        self._clip = clip
        self._subjects = attempt.job.spec.subjects
        self._real = [clip.images(self._references(index)) for index in range(len(self._subjects))]

    def score(self, step: int) -> None:
        """Write the scores of the model in its current state. Collective.

        Args:
            step: Optimizer steps done; 0 is the base model, a later one also writes scores.json.

        Raises:
            StoppedError: On every rank, when one was asked to stop while generating images.
        """
        scores = [
            self._score_subject(subject, real)
            for subject, real in zip(self._subjects, self._real, strict=True)
        ]
        if self._attempt.topology.rank == 0:
            self._write(step, scores)

    def _references(self, index: int) -> Iterator[Image.Image]:
        """Real images to compare with: those kept out of training, if the job has any."""
        resolution = self._attempt.job.spec.training.resolution
        uri, field = self._evaluation.images, "spec.evaluation.images"
        if uri is None:
            uri, field = self._subjects[index].images, f"spec.subjects[{index}].images"
        storage = self._attempt.storage
        loaded = load_images(storage, uri, field=field, resolution=resolution)
        return read_pixels(storage, loaded.images, resolution)

    def _score_subject(self, subject: Subject, real: Tensor) -> Scores:
        count = self._evaluation.count
        of_subject = self._images(subject.prompt, count)
        of_class = self._images(subject.class_prompt, count)
        return Scores(
            subject_similarity=mean_similarity(of_subject, real),
            prompt_similarity=self._prompt_similarity(subject),
            class_similarity=mean_similarity(of_class, real),
            subject_diversity=diversity(of_subject),
            class_diversity=diversity(of_class),
        )

    def _prompt_similarity(self, subject: Subject) -> float:
        """Mean over the sample prompts that name the subject, which share `count` images."""
        prompts = prompts_of(subject, self._attempt.job.spec.samples.prompts)
        each = math.ceil(self._evaluation.count / len(prompts))
        identifiers = [other.identifier for other in self._subjects]
        texts = self._clip.texts([without_identifiers(text, identifiers) for text in prompts])
        return statistics.fmean(
            mean_similarity(self._images(prompt, each), text[None])
            for prompt, text in zip(prompts, texts, strict=True)
        )

    def _images(self, prompt: str, count: int) -> Tensor:
        """Unit vectors [count, D] of generated images of a prompt. Collective."""
        seed = self._attempt.job.spec.samples.seed
        requests = [ImageRequest(prompt, seed + i) for i in range(count)]
        return self._clip.images(self._generator.generate(requests))

    def _write(self, step: int, scores: list[Scores]) -> None:
        storage, layout = self._attempt.storage, self._attempt.layout
        write_json(storage, layout.scores_at(step), [asdict(each) for each in scores])
        if step == 0:
            return
        first = json.loads(storage.read(layout.scores_at(0)))
        entries = [
            # 1 - diversity is the mean cosine between the real images.
            score_entry(subject, Scores(**before), after, real=1 - diversity(real))
            for subject, before, after, real in zip(
                self._subjects, first, scores, self._real, strict=True
            )
        ]
        write_json(storage, layout.scores, {"step": step, "subjects": entries})
