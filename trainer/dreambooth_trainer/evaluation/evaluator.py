"""Scores the model: fidelity to the subject and to prompts, and preservation of the class."""

import math
from collections.abc import Callable, Sequence
from dataclasses import fields

import safetensors.torch
import torch
from PIL import Image

from dreambooth_api.contract.scores import Encoders, Scores
from dreambooth_api.models.results.evaluation import Evaluation
from dreambooth_api.models.subject import Subject
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.evaluation.encoder_config import encoder_sources
from dreambooth_trainer.evaluation.encoders import ImageEncoder, TextEncoder, load_encoders
from dreambooth_trainer.evaluation.image_generator import ImageGenerator
from dreambooth_trainer.evaluation.references import encode_real
from dreambooth_trainer.evaluation.scores import (
    GeneratedVectors,
    prompts_of,
    subject_scores,
)
from dreambooth_trainer.models.generate import ImageRequest


def load_evaluator(
    attempt: Attempt, generator: ImageGenerator, check_owner: Callable[[], None]
) -> "Evaluator | None":
    """The evaluator of `spec.evaluation`, None without one. Collective.

    Raises:
        BadModelError: An encoder of `spec.evaluation` cannot be loaded.
    """
    evaluation = attempt.job.spec.evaluation
    if evaluation is None:
        return None
    images, text = load_encoders(attempt, encoder_sources(evaluation))
    return Evaluator(attempt, evaluation, generator, images, text, check_owner)


class Evaluator:
    """Scores every subject of a job, before and after training.

    Args:
        attempt: The current one.
        evaluation: `spec.evaluation`.
        generator: Of the images that are scored.
        image_encoder: Of images alone.
        text_encoder: Of images and prompts.
        check_owner: Raises `FencedError` when a newer attempt owns the output. Collective.

    Raises:
        BadDataError: The real images to compare with cannot be used.
    """

    def __init__(
        self,
        attempt: Attempt,
        evaluation: Evaluation,
        generator: ImageGenerator,
        image_encoder: ImageEncoder,
        text_encoder: TextEncoder,
        check_owner: Callable[[], None],
    ) -> None:
        self._attempt = attempt
        self._check_owner = check_owner
        self._evaluation = evaluation
        self._generator = generator
        self._image_encoder = image_encoder
        self._text_encoder = text_encoder
        self._subjects = attempt.job.spec.subjects
        self._prompts = [
            prompts_of(subject, attempt.job.spec.samples.prompts) for subject in self._subjects
        ]
        self._real = [
            encode_real(attempt, index, prompts, image_encoder, text_encoder)
            for index, prompts in enumerate(self._prompts)
        ]

    def score(self, step: int) -> Scores:
        """Score the model in its current state, and write the scores. Collective.

        Args:
            step: Optimizer steps done; 0 is the base model.

        Returns:
            The scores, the same on every rank.

        Raises:
            FencedError: A newer attempt owns the output; nothing is written.
            StoppedError: On every rank, when one was asked to stop while generating images.
        """
        generated = [
            self._generate(subject, prompts)
            for subject, prompts in zip(self._subjects, self._prompts, strict=True)
        ]
        # After generating, which takes long: an attempt that was superseded meanwhile must not
        # overwrite the newer one's scores, nor the images that its own are compared with.
        self._check_owner()
        storage, layout = self._attempt.storage, self._attempt.layout
        is_first = self._attempt.topology.rank == 0
        if step == 0:
            if is_first:
                storage.write(layout.base_vectors, _pack(generated))
            scores = self._compare(step, generated, None)
        else:
            base = self._attempt.ranks.run_on_first(lambda: storage.read(layout.base_vectors))
            scores = self._compare(step, _unpack(base), generated)
        if is_first:
            storage.write(layout.scores_at(step), scores.encode())
            self._attempt.telemetry.record_scores(scores)
        return scores

    def _generate(self, subject: Subject, prompts: Sequence[str]) -> GeneratedVectors:
        """Images of a subject, of its class and of its sample prompts. Collective."""
        count = self._evaluation.count
        # Together about as many images of the prompts as of the subject.
        per_prompt = math.ceil(count / len(prompts))
        of_subject = self._images(subject.prompt, count)
        of_class = self._images(subject.class_prompt, count)
        of_prompts = [
            self._text_encoder.images(self._images(prompt, per_prompt)) for prompt in prompts
        ]
        return GeneratedVectors(
            subject=self._image_encoder.images(of_subject),
            subject_clip=self._text_encoder.images(of_subject),
            class_images=self._image_encoder.images(of_class),
            prompts=torch.stack(of_prompts),
        )

    def _images(self, prompt: str, count: int) -> list[Image.Image]:
        """Generated images of a prompt. Collective."""
        seed = self._attempt.job.spec.samples.seed
        requests = [ImageRequest(prompt, seed + i) for i in range(count)]
        return self._generator.generate(requests)

    def _compare(
        self,
        step: int,
        base: Sequence[GeneratedVectors],
        trained: Sequence[GeneratedVectors] | None,
    ) -> Scores:
        return Scores(
            step=step,
            encoders=Encoders(image=self._image_encoder.record, text=self._text_encoder.record),
            subjects=[
                subject_scores(
                    subject,
                    self._prompts[index],
                    self._real[index],
                    base[index],
                    trained[index] if trained else None,
                )
                for index, subject in enumerate(self._subjects)
            ],
        )


def _pack(generated: Sequence[GeneratedVectors]) -> bytes:
    """The vectors of all subjects as a safetensors file."""
    data: bytes = safetensors.torch.save(
        {
            f"{index}.{name}": tensor.clone()
            for index, vectors in enumerate(generated)
            for name, tensor in vars(vectors).items()
        }
    )
    return data


def _unpack(data: bytes) -> list[GeneratedVectors]:
    """Read what `_pack` wrote."""
    tensors = safetensors.torch.load(data)
    names = [field.name for field in fields(GeneratedVectors)]
    return [
        GeneratedVectors(**{name: tensors[f"{index}.{name}"] for name in names})
        for index in range(len(tensors) // len(names))
    ]
