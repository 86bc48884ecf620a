"""The order of a sweep's jobs is that in which a run chooses its best checkpoint."""

import pytest

from dreambooth_api.contract.scores import (
    Counts,
    Encoder,
    Encoders,
    Estimate,
    ScoreName,
    Scores,
    ScoreValues,
    SubjectScores,
)
from dreambooth_operator.cli.sweep.results import Result, best_first

ENCODER = Encoder(name="CLIP", source="/models/clip", sha256="0" * 64)
COUNTS = Counts(subject=2, class_images=2, per_prompt=2, references=2, training=2)
NAMES = (ScoreName.SUBJECT_SIMILARITY, ScoreName.PROMPT_SIMILARITY)


def result(name: str, *subjects: tuple[float, ...]) -> Result:
    """A job with the similarities of each subject: to its images, and to prompts."""
    scores = Scores(
        step=9,
        encoders=Encoders(image=ENCODER, text=ENCODER),
        subjects=[
            SubjectScores(
                identifier=f"sks{number}",
                class_noun="mug",
                counts=COUNTS,
                scores={
                    # A subject may lack the last score.
                    each: ScoreValues(trained=Estimate(value=value, low=value, high=value))
                    for each, value in zip(NAMES, values, strict=False)
                },
            )
            for number, values in enumerate(subjects)
        ],
    )
    return Result(name, {}, "Succeeded", scores=scores)


def test_each_score_is_averaged_over_the_subjects_before_they_are_multiplied() -> None:
    even, uneven = result("even", (0.5, 0.5), (0.5, 0.5)), result("uneven", (0.8, 0.8), (0.1, 0.1))
    assert even.score == pytest.approx(0.25)
    assert uneven.score == pytest.approx(0.45**2)
    assert best_first([uneven, even]) == [even, uneven]


def test_a_job_without_both_scores_of_all_subjects_comes_last() -> None:
    partial, none = result("partial", (0.9, 0.9), (0.9,)), Result("none", {}, "")
    assert (partial.score, none.score) == (None, None)
    assert best_first([none, partial, result("whole", (0.1, 0.1))])[0].name == "whole"
