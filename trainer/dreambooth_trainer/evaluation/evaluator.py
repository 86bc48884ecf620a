"""Scores the model: fidelity to the subject and to prompts, and preservation of the class."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from dreambooth_api.contract.scores import (
    Counts,
    Encoder,
    Encoders,
    PromptScores,
    Scores,
    SubjectScores,
)
from dreambooth_api.models.evaluation import Evaluation
from dreambooth_api.models.model import Model
from dreambooth_api.models.subject import Subject
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.evaluation.clip_config import FIELD
from dreambooth_trainer.evaluation.clip_encoder import ClipEncoder
from dreambooth_trainer.evaluation.image_generator import ImageGenerator
from dreambooth_trainer.evaluation.references import load_references
from dreambooth_trainer.evaluation.scores import (
    GeneratedVectors,
    RealVectors,
    prompts_of,
    score_prompts,
    score_subject,
    with_class_nouns,
)
from dreambooth_trainer.models.generate import ImageRequest
from dreambooth_trainer.models.source.fetch import fetched
from dreambooth_trainer.models.source.selection import select_transformers_files


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
        digest = _digest(folder)
    return Evaluator(attempt, evaluation, generator, clip, digest)


def _digest(folder: Path) -> str:
    """sha256, in hexadecimal, of a model's configuration and weights."""
    digest = hashlib.sha256()
    for path in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class Evaluator:
    """Scores every subject of a job, before and after training.

    Raises:
        BadDataError: The real images to compare with cannot be used.
    """

    def __init__(
        self,
        attempt: Attempt,
        evaluation: Evaluation,
        generator: ImageGenerator,
        clip: ClipEncoder,
        digest: str,
    ) -> None:
        self._attempt = attempt
        self._evaluation = evaluation
        self._generator = generator
        self._clip = clip
        encoder = Encoder(name="CLIP", source=evaluation.model, sha256=digest)
        self._encoders = Encoders(image=encoder, text=encoder)
        self._subjects = attempt.job.spec.subjects
        self._prompts = [
            prompts_of(subject, attempt.job.spec.samples.prompts) for subject in self._subjects
        ]
        self._real = [self._encode_real(index) for index in range(len(self._subjects))]

    def score(self, step: int) -> Scores:
        """Score the model in its current state, and write the scores. Collective.

        Args:
            step: Optimizer steps done; 0 is the base model, a later one also writes scores.json.

        Returns:
            The scores, the same on every rank.

        Raises:
            StoppedError: On every rank, when one was asked to stop while generating images.
        """
        generated = [
            self._generate(subject, prompts)
            for subject, prompts in zip(self._subjects, self._prompts, strict=True)
        ]
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
            if step > 0:
                final = scores.model_copy(update={"exported_step": step, "last_step": step})
                storage.write(layout.scores, final.encode())
        return scores

    def _encode_real(self, index: int) -> RealVectors:
        """The real images and the prompts of a subject."""
        images = load_references(self._attempt, index)
        training = self._clip.images(images.training)
        references = training if images.held_out is None else self._clip.images(images.held_out)
        texts = [with_class_nouns(prompt, self._subjects) for prompt in self._prompts[index]]
        return RealVectors(
            references=references,
            references_clip=references,
            training=training,
            held_out=images.held_out is not None,
            texts=self._clip.texts(texts),
        )

    def _generate(self, subject: Subject, prompts: Sequence[str]) -> GeneratedVectors:
        """Images of a subject, of its class and of its sample prompts. Collective."""
        count = self._evaluation.count
        of_subject = self._images(subject.prompt, count)
        of_prompts = [self._images(prompt, self._per_prompt(prompts)) for prompt in prompts]
        return GeneratedVectors(
            subject=of_subject,
            subject_clip=of_subject,
            class_images=self._images(subject.class_prompt, count),
            prompts=torch.stack(of_prompts),
        )

    def _per_prompt(self, prompts: Sequence[str]) -> int:
        """Images of each sample prompt: together about as many as of the subject."""
        return math.ceil(self._evaluation.count / len(prompts))

    def _images(self, prompt: str, count: int) -> Tensor:
        """Unit vectors [count, D] of generated images of a prompt. Collective."""
        seed = self._attempt.job.spec.samples.seed
        requests = [ImageRequest(prompt, seed + i) for i in range(count)]
        return self._clip.images(self._generator.generate(requests)).cpu()

    def _compare(
        self,
        step: int,
        base: Sequence[GeneratedVectors],
        trained: Sequence[GeneratedVectors] | None,
    ) -> Scores:
        entries = []
        for index, subject in enumerate(self._subjects):
            vectors = self._real[index], base[index], trained[index] if trained else None
            prompts, real = self._prompts[index], self._real[index]
            entries.append(
                SubjectScores(
                    identifier=subject.identifier,
                    class_noun=subject.class_noun,
                    counts=Counts(
                        subject=self._evaluation.count,
                        class_images=self._evaluation.count,
                        per_prompt=self._per_prompt(prompts),
                        references=len(real.references),
                        training=len(real.training),
                    ),
                    scores=score_subject(*vectors),
                    prompts=[
                        PromptScores(prompt=prompt, values=values)
                        for prompt, values in zip(prompts, score_prompts(*vectors), strict=True)
                    ],
                )
            )
        return Scores(step=step, encoders=self._encoders, subjects=entries)


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
