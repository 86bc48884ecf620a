"""The scores of an exported model, for its card."""

from collections.abc import Iterator

from dreambooth_api.contract.scores import (
    DEFINITIONS,
    Encoder,
    Estimate,
    Scores,
    SubjectScores,
)

TEMPLATE = """
## Scores

{chosen}Values have 95 % intervals; real images are those of the subject.

{tables}
{encoders}.
"""


def describe_scores(scores: Scores) -> str:
    """A section in Markdown, with a table for each subject.

    Args:
        scores: Of the exported model; `last_step` is that of the training.
    """
    chosen = ""
    if scores.last_step is not None and scores.last_step != scores.step:
        chosen = (
            f"This is the best checkpoint, of step {scores.step}; training ended with step"
            f" {scores.last_step}. "
        )
    encoders = scores.encoders.image, scores.encoders.text
    return TEMPLATE.format(
        chosen=chosen,
        tables="\n".join(line for each in scores.subjects for line in _table(each)),
        encoders="Encoders: " + " and ".join(map(_encoder, encoders)),
    )


def _table(subject: SubjectScores) -> Iterator[str]:
    counts = subject.counts
    yield f'"{subject.identifier} {subject.class_noun}", from {counts.subject} images per score:'
    yield ""
    yield "| Score | Better | Base | This model | Real images |"
    yield "|---|---|---|---|---|"
    for name, definition in DEFINITIONS.items():
        values = subject.scores.get(name)
        if values is None or values.trained is None:
            continue
        title = definition.title
        if definition.abbreviation:
            title += f" ({definition.abbreviation})"
        better = "near real images" if definition.better == "real" else definition.better
        shown = " | ".join(map(_number, (values.base, values.trained, values.real)))
        yield f"| {title} | {better} | {shown} |"
    yield ""


def _number(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def _encoder(encoder: Encoder) -> str:
    return f"{encoder.name} (sha256 `{encoder.sha256[:12]}`)"
