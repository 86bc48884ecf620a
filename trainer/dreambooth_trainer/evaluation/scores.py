"""Scores of Ruiz et al. 2022, sections 4.1 and 4.3, with CLIP as the encoder.

Subject similarity is the paper's CLIP-I: the mean cosine between generated and real images of the
subject. Prompt similarity is CLIP-T: between images of the sample prompts and these prompts.
Similarity and diversity of class images show what the prior loss has preserved.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dreambooth_api.models.subject import Subject


@dataclass(frozen=True)
class Scores:
    """One subject's scores at one step; similarities are cosines, -1 to 1."""

    subject_similarity: float
    prompt_similarity: float
    class_similarity: float
    """Between generated class images and real images of the subject: it rises when the class
    collapses into the subject."""
    subject_diversity: float
    class_diversity: float


def prompts_of(subject: Subject, prompts: Sequence[str]) -> list[str]:
    """The sample prompts that name the subject; its instance prompt where none does."""
    return [p for p in prompts if _word(subject.identifier).search(p)] or [subject.prompt]


def without_identifiers(prompt: str, identifiers: Sequence[str]) -> str:
    """The prompt as CLIP should read it: identifiers mean nothing to it, the classes remain."""
    for identifier in identifiers:
        prompt = _word(identifier).sub("", prompt)
    return " ".join(prompt.split())


def _word(identifier: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(identifier)}(?!\w)")


def mean_similarity(left: Tensor, right: Tensor) -> float:
    """Mean cosine over all pairs of unit vectors [N, D] and [M, D].

    CLIP-I or CLIP-T of Ruiz et al. 2022, section 4.1.
    """
    return float((left @ right.T).mean())


def diversity(vectors: Tensor) -> float:
    """1 - mean cosine over the pairs of different unit vectors of [N, D]; 0 for one vector."""
    count = len(vectors)
    if count < 2:
        return 0.0
    # The diagonal, each vector with itself, adds 1 per vector.
    total = float((vectors @ vectors.T).sum()) - count
    return 1 - total / (count * (count - 1))


def score_entry(subject: Subject, before: Scores, after: Scores, real: float) -> dict[str, Any]:
    """One subject's entry in scores.json.

    Args:
        subject: The subject.
        before: Its scores with the base model.
        after: Its scores with the trained model.
        real: Mean cosine among the subject's real images, which a perfect model would reach.
    """
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
