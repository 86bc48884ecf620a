"""Scores of the result with CLIP: has it learned the subject, does it follow prompts, is the class
still itself?

After Ruiz et al. 2022, section 4.2: CLIP-I is the mean cosine between generated and real images of
the subject, CLIP-T between generated images and their prompts; class images alike show what the
prior loss has kept.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from dreambooth_api.models.model import Model
from dreambooth_api.models.subject import Subject
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.data.images import load_images
from dreambooth_trainer.evaluation.samples import Painter
from dreambooth_trainer.models.fetch import fetched
from dreambooth_trainer.models.generate import Request
from dreambooth_trainer.process import heartbeat
from dreambooth_trainer.process.errors import BadModelError
from dreambooth_trainer.telemetry.telemetry import write_json

FIELD = "spec.evaluation.model"
CHUNK = 32


class Clip:
    """Unit vectors of images and texts, [N, D]."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        try:
            self._model = CLIPModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True
            )
            self._processor = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
            self._tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # libraries meet hostile files with every kind of exception
            raise BadModelError(
                f"{FIELD}: this is no CLIP model that can be loaded: {error}"
            ) from error
        self._device = device

    @torch.no_grad()
    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """Embeddings of the images."""
        parts = []
        for first in range(0, len(images), CHUNK):
            heartbeat.send()
            pixels = self._processor(list(images[first : first + CHUNK]), return_tensors="pt")
            parts.append(_features(self._model.get_image_features(**pixels.to(self._device))))
        return normalize(torch.cat(parts), dim=-1)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of the texts."""
        tokens = self._tokenizer(
            list(texts), padding="max_length", truncation=True, return_tensors="pt"
        )
        return normalize(
            _features(self._model.get_text_features(**tokens.to(self._device))), dim=-1
        )


def _features(output: Any) -> Tensor:
    """Transformers 5 wraps the projected features in an output object."""
    features: Tensor = getattr(output, "pooler_output", output)
    return features


@dataclass(frozen=True)
class Scores:
    """Scores of one subject at one moment: cosines; diversity is 1 - mean pairwise cosine."""

    subject_similarity: float
    prompt_similarity: float
    class_similarity: float
    subject_diversity: float
    class_diversity: float


def mean_similarity(left: Tensor, right: Tensor) -> float:
    """Mean cosine over all pairs of [N, D] and [M, D]."""
    return float((left @ right.T).mean())


def diversity(vectors: Tensor) -> float:
    """1 - mean cosine over the pairs of different rows of [N, D]."""
    count = len(vectors)
    if count < 2:
        return 0.0
    total = float((vectors @ vectors.T).sum()) - count
    return 1 - total / (count * (count - 1))


def own_similarity(vectors: Tensor) -> float:
    """Mean cosine of the subject's real images among each other: what a perfect model would
    reach.
    """
    return 1 - diversity(vectors)


class Judge:
    """Scores every subject of a job, at its start and at its end."""

    def __init__(self, attempt: Attempt, painter: Painter, clip: Clip) -> None:
        assert attempt.job.spec.evaluation is not None
        self._attempt = attempt
        self._painter = painter
        self._clip = clip
        self._evaluation = attempt.job.spec.evaluation
        self._real = [
            clip.images(self._references(index)) for index in range(len(attempt.job.spec.subjects))
        ]

    @classmethod
    def of(cls, attempt: Attempt, painter: Painter) -> "Judge | None":
        """The judge that the job asks for. Raises `BadModelError` when its CLIP cannot be
        loaded.
        """
        evaluation = attempt.job.spec.evaluation
        if evaluation is None:
            return None
        model = Model(source=evaluation.model)
        with fetched(model, attempt.storage, attempt.ranks, FIELD) as folder:
            clip = Clip(folder, attempt.device)
        return cls(attempt, painter, clip)

    def score(self, step: int) -> None:
        """Score the model as it is now; past step 0, write scores.json. Collective."""
        subjects = self._attempt.job.spec.subjects
        scores = [self._one(s, real) for s, real in zip(subjects, self._real, strict=True)]
        if self._attempt.topology.rank == 0:
            self._write(step, scores)

    def _references(self, index: int) -> list[Image.Image]:
        """Images to compare with: kept out of training where the job has such."""
        job = self._attempt.job
        uri, field = self._evaluation.images, "spec.evaluation.images"
        if uri is None:
            uri, field = job.spec.subjects[index].images, f"spec.subjects[{index}].images"
        found = load_images(
            self._attempt.storage, uri, field=field, resolution=job.spec.training.resolution
        )
        return [image.pixels for image in found.images]

    def _one(self, subject: Subject, real: Tensor) -> Scores:
        plain = f"a photo of a {subject.class_noun}"
        named = f"a photo of {subject.identifier} {subject.class_noun}"
        count, seed = self._evaluation.count, self._attempt.job.spec.samples.seed
        requests = [Request(p, seed + i) for p in (named, plain) for i in range(count)]
        vectors = self._clip.images(self._painter.paint(requests))
        of_subject, of_class = vectors[:count], vectors[count:]
        return Scores(
            subject_similarity=mean_similarity(of_subject, real),
            # The identifier means nothing to the judge, so it reads the prompt with the class
            # alone.
            prompt_similarity=mean_similarity(of_subject, self._clip.texts([plain])),
            class_similarity=mean_similarity(of_class, real),
            subject_diversity=diversity(of_subject),
            class_diversity=diversity(of_class),
        )

    def _write(self, step: int, scores: list[Scores]) -> None:
        storage, layout = self._attempt.storage, self._attempt.layout
        write_json(storage, layout.scores_at(step), [asdict(s) for s in scores])
        if step == 0:
            return
        first = json.loads(storage.read(layout.scores_at(0)))
        entries = [
            report(subject, Scores(**before), after, own_similarity(real))
            for subject, before, after, real in zip(
                self._attempt.job.spec.subjects, first, scores, self._real, strict=True
            )
        ]
        write_json(storage, layout.scores, {"step": step, "subjects": entries})


def report(subject: Subject, before: Scores, after: Scores, real: float) -> dict[str, Any]:
    """One subject's entry in scores.json."""
    return {
        "identifier": subject.identifier,
        "classNoun": subject.class_noun,
        "subjectSimilarity": {
            "before": before.subject_similarity,
            "after": after.subject_similarity,
            "real": real,
        },
        "promptSimilarity": {"before": before.prompt_similarity, "after": after.prompt_similarity},
        "classSimilarity": {"before": before.class_similarity, "after": after.class_similarity},
        "classDiversity": {"before": before.class_diversity, "after": after.class_diversity},
        "subjectDiversity": {"before": before.subject_diversity, "after": after.subject_diversity},
    }
