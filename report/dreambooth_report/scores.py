"""scores.json and the scores of each step, as the page shows them."""

from collections.abc import Mapping, Sequence
from typing import Any

from dreambooth_report.facts import ScoreFacts, ScorePoint

MEANINGS = {
    "subjectSimilarity": ("Subject similarity", "Does it look like the subject? Higher is better."),
    "promptSimilarity": (
        "Prompt similarity",
        "Does it show what the prompt asks for? Higher is better.",
    ),
    "classSimilarity": (
        "Class similarity",
        "How much other members of the class look like the subject. It should stay low.",
    ),
    "classDiversity": ("Class diversity", "Variety among the class. It should stay."),
    "subjectDiversity": ("Subject diversity", "Variety among images of the subject."),
}


def parse(
    summary: Mapping[str, Any], by_step: Mapping[int, Sequence[Mapping[str, Any]]]
) -> list[ScoreFacts]:
    """The scores of every subject.

    Args:
        summary: scores.json.
        by_step: The scores of each subject at each step.
    """
    scores = []
    for index, entry in enumerate(summary.get("subjects", ())):
        for key, (name, meaning) in MEANINGS.items():
            field = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in key)
            points = [
                ScorePoint(step, each[index][field])
                for step, each in sorted(by_step.items())
                if index < len(each) and field in each[index]
            ]
            if points:
                subject = f"{entry['identifier']} {entry['classNoun']}"
                real = entry.get(key, {}).get("real")
                scores.append(ScoreFacts(subject, name, meaning, points, real))
    return scores
