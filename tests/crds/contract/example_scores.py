"""Scores as a run of the quickstart writes them."""

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


def about(value: float) -> Estimate:
    """An estimate that is known to 0.05."""
    return Estimate(value=value, low=value - 0.05, high=value + 0.05)


def example_scores() -> Scores:
    """Scores of one subject: more similar than before, prompts followed as before."""
    similarity = ScoreValues(
        base=about(0.5), trained=about(0.75), real=about(0.875), change=about(0.25)
    )
    prompts = ScoreValues(base=about(0.25), trained=about(0.24), change=about(-0.01))
    subject = SubjectScores(
        identifier="sks",
        class_noun="mug",
        counts=Counts(subject=16, class_images=16, per_prompt=6, references=8, training=5),
        scores={ScoreName.SUBJECT_SIMILARITY: similarity, ScoreName.PROMPT_SIMILARITY: prompts},
    )
    encoders = {
        name: Encoder(name=name.upper(), source=f"/models/{name}", sha256="0" * 64)
        for name in ("dino", "clip")
    }
    return Scores(
        step=9,
        exported_step=9,
        last_step=9,
        encoders=Encoders(image=encoders["dino"], text=encoders["clip"]),
        subjects=[subject],
    )
