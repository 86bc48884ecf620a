"""Scores of one subject from the vectors of its images: pure functions, no models.

Source: Ruiz et al. 2022, sections 4.1 (DINO, CLIP-I, CLIP-T) and 4.3 (PRES, DIV).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from dreambooth_api.contract.scores import (
    Counts,
    PromptScores,
    ScoreName,
    ScoreValues,
    SubjectScores,
    difference,
)
from dreambooth_api.models.subject import Subject
from dreambooth_api.schema.names import has_identifier, identifier_pattern
from dreambooth_trainer.evaluation.estimates import (
    distance_change,
    estimate,
    fidelity,
    half_distances,
    kernel_distances,
)


@dataclass(frozen=True)
class GeneratedVectors:
    """Unit vectors of one model's images of a subject, in the order of their seeds.

    Args:
        subject: Images of the instance prompt by the image encoder, [N, D].
        subject_clip: The same images by the text encoder's model, [N, E].
        class_images: Images of the class prompt by the image encoder, [N, D].
        prompts: Images of the sample prompts by the text encoder's model, [P, n, E].
    """

    subject: Tensor
    subject_clip: Tensor
    class_images: Tensor
    prompts: Tensor


@dataclass(frozen=True)
class RealVectors:
    """Unit vectors that the generated ones of a subject are compared with.

    Args:
        references: Real images by the image encoder, [R, D].
        references_clip: The same images by the text encoder's model, [R, E].
        training: Training images by the image encoder, [T, D].
        held_out: Whether the references are other images than those of the training.
        texts: The sample prompts, [P, E].
        class_text: The class prompt, [E].
    """

    references: Tensor
    references_clip: Tensor
    training: Tensor
    held_out: bool
    texts: Tensor
    class_text: Tensor


def prompts_of(subject: Subject, prompts: Sequence[str]) -> list[str]:
    """The sample prompts that name the subject; its instance prompt where none does."""
    return [p for p in prompts if has_identifier(p, subject.identifier)] or [subject.prompt]


def with_class_nouns(prompt: str, subjects: Sequence[Subject]) -> str:
    """The prompt as an encoder should read it: with class nouns, as identifiers mean nothing."""
    for subject in subjects:
        noun = subject.class_noun
        named = rf"{identifier_pattern(subject.identifier)}(\s+{re.escape(noun)}(?!\w))?"
        prompt = re.sub(named, noun.replace("\\", r"\\"), prompt, flags=re.IGNORECASE)
    return " ".join(prompt.split())


def subject_scores(
    subject: Subject,
    prompts: Sequence[str],
    real: RealVectors,
    base: GeneratedVectors,
    trained: GeneratedVectors | None,
) -> SubjectScores:
    """A subject's entry in the file of scores.

    Args:
        subject: The subject.
        prompts: Those behind `real.texts` and the images of the prompts.
        real: Its real images.
        base: Images of the base model.
        trained: Images of the trained model, from the same seeds; None for the base model's scores.
    """
    of_prompts = score_prompts(real, base, trained)
    return SubjectScores(
        identifier=subject.identifier,
        class_noun=subject.class_noun,
        counts=Counts(
            subject=len(base.subject),
            class_images=len(base.class_images),
            per_prompt=base.prompts.shape[1],
            references=len(real.references),
            training=len(real.training),
        ),
        scores=score_subject(real, base, trained),
        prompts=[
            PromptScores(prompt=prompt, values=values)
            for prompt, values in zip(prompts, of_prompts, strict=True)
        ],
    )


def score_subject(
    real: RealVectors, base: GeneratedVectors, trained: GeneratedVectors | None
) -> dict[ScoreName, ScoreValues]:
    """All scores of a subject; without a trained model, those of the base and of real images."""
    ceiling = _real_values(real)
    scores: dict[ScoreName, ScoreValues] = {}
    for name in ScoreName:
        if name is ScoreName.CLASS_DRIFT:
            scores[name] = _class_drift(base, trained)
        elif name is ScoreName.CLASS_FIDELITY:
            scores[name] = _class_fidelity(base, trained)
        else:
            before = VALUES[name](base, real)
            after = VALUES[name](trained, real) if trained else None
            scores[name] = _compare(before, after, ceiling.get(name))
    return scores


def score_prompts(
    real: RealVectors, base: GeneratedVectors, trained: GeneratedVectors | None
) -> list[ScoreValues]:
    """Prompt following of each sample prompt, in their order."""
    shape = base.prompts.shape[:2]
    before = _fit_to_prompts(base, real).view(shape)
    after = _fit_to_prompts(trained, real).view(shape) if trained else None
    return [
        _compare(before[index], None if after is None else after[index], None)
        for index in range(len(before))
    ]


def _compare(before: Tensor, after: Tensor | None, real: Tensor | None) -> ScoreValues:
    return ScoreValues(
        base=estimate(before),
        trained=None if after is None else estimate(after),
        real=None if real is None else estimate(real),
        # The same seeds: what an image has from its seed is in both, and cancels out.
        change=None if after is None else estimate(after - before),
    )


def _class_fidelity(base: GeneratedVectors, trained: GeneratedVectors | None) -> ScoreValues:
    before = fidelity(base.class_images, base.class_images)
    if trained is None or before is None:
        return ScoreValues(base=before)
    after = fidelity(base.class_images, trained.class_images)
    # That of the base model is 1, without noise.
    return ScoreValues(base=before, trained=after, change=after and difference(after, before))


def _class_drift(base: GeneratedVectors, trained: GeneratedVectors | None) -> ScoreValues:
    before = half_distances(base.class_images)
    if trained is None:
        return ScoreValues(base=before)
    terms = kernel_distances(base.class_images, trained.class_images)
    return ScoreValues(base=before, trained=estimate(terms), change=distance_change(terms))


def _real_values(real: RealVectors) -> dict[ScoreName, Tensor]:
    """What real images reach in the scores of the subject."""
    values = {
        ScoreName.SUBJECT_SIMILARITY: real.references @ real.references.T,
        ScoreName.SUBJECT_SIMILARITY_CLIP: real.references_clip @ real.references_clip.T,
        # What they show of a prompt is its class: an odd mug fits "a mug" less than others do.
        ScoreName.PROMPT_SIMILARITY: real.references_clip @ real.class_text,
        ScoreName.SUBJECT_DIVERSITY: 1 - real.references @ real.references.T,
    }
    near = real.references @ real.training.T
    if not real.held_out:
        # Each training image is its own nearest one: the second nearest counts.
        near = near.clone().fill_diagonal_(-1)
    if real.held_out or len(real.training) > 1:
        values[ScoreName.MEMORIZATION] = near.max(dim=1).values
    return values


def _fit_to_prompts(generated: GeneratedVectors, real: RealVectors) -> Tensor:
    """Cosine of each image with its prompt, [P * n]."""
    return (generated.prompts * real.texts[:, None]).sum(dim=-1).flatten()


VALUES: dict[ScoreName, Callable[[GeneratedVectors, RealVectors], Tensor]] = {
    ScoreName.SUBJECT_SIMILARITY: lambda images, real: (images.subject @ real.references.T).mean(1),
    ScoreName.SUBJECT_SIMILARITY_CLIP: lambda images, real: (
        images.subject_clip @ real.references_clip.T
    ).mean(1),
    ScoreName.PROMPT_SIMILARITY: _fit_to_prompts,
    ScoreName.SUBJECT_DIVERSITY: lambda images, _: 1 - images.subject @ images.subject.T,
    ScoreName.MEMORIZATION: lambda images, real: (images.subject @ real.training.T).max(1).values,
    ScoreName.CLASS_SIMILARITY: lambda images, real: (images.class_images @ real.references.T).mean(
        1
    ),
    ScoreName.CLASS_DIVERSITY: lambda images, _: 1 - images.class_images @ images.class_images.T,
}
"""What each score averages: one value per image, [N], or per pair of images, [N, N]."""
