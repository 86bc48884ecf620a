"""The scores of a run over its steps."""

from collections.abc import Sequence

from dreambooth_api.contract.scores import (
    DEFINITIONS,
    ScoreName,
    Scores,
    ScoreValues,
    SubjectScores,
)
from dreambooth_report.facts import ScoreFacts, ScorePoint

VERDICTS = {
    "better": "Better than the base model.",
    "worse": "Worse than the base model.",
    "none": "No difference from the base model beyond the noise.",
    "unclear": "So few images do not tell it from the base model; raise evaluation.count.",
}


def over_steps(files: Sequence[Scores], judged: int | None = None) -> list[ScoreFacts]:
    """Each score of each subject over the steps.

    Steps whose scores were measured with other prompts or encoders are left out: they do not
    compare.

    Args:
        files: The scores of some steps, in any order; of the same step, the last one counts.
        judged: The step whose change from the base model is put into words; the last one where it
            is None or has no scores.
    """
    by_step = {each.step: each for each in files}
    if not by_step:
        return []
    last = by_step[max(by_step)]
    reference = last if judged is None else by_step.get(judged, last)
    ordered = [
        by_step[step]
        for step in sorted(by_step)
        if _measured_with(by_step[step]) == _measured_with(reference)
    ]
    steps = [each.step for each in ordered]
    scores = [
        _score(name, subject, [each.subjects[index] for each in ordered], steps)
        for index, subject in enumerate(reference.subjects)
        for name in ScoreName
        if name in subject.scores
    ]
    return [score for score in scores if score.points]


def _measured_with(scores: Scores) -> object:
    prompts = [[each.prompt for each in subject.prompts] for subject in scores.subjects]
    return scores.encoders, prompts


def _score(
    name: ScoreName, judged: SubjectScores, subjects: Sequence[SubjectScores], steps: Sequence[int]
) -> ScoreFacts:
    values = [each.scores.get(name, ScoreValues()) for each in subjects]
    base = next((each.base for each in values if each.base), None)
    points = [ScorePoint(0, base.value, base.low, base.high)] if base else []
    points += [
        ScorePoint(step, each.trained.value, each.trained.low, each.trained.high)
        for step, each in zip(steps, values, strict=True)
        if step > 0 and each.trained
    ]
    definition, real, change = DEFINITIONS[name], judged.scores[name].real, judged.change(name)
    return ScoreFacts(
        f"{judged.identifier} {judged.class_noun}",
        name,
        definition.title[0].upper() + definition.title[1:],
        definition.abbreviation,
        definition.meaning,
        points,
        real.value if real else None,
        VERDICTS[change] if change else "",
    )
