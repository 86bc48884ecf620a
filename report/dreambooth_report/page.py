"""The page: what is known of a run, as one HTML document. Pure."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from markupsafe import Markup

from dreambooth_api.contract.scores import DEFINITIONS, ScoreName
from dreambooth_api.contract.times import human_duration
from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.models.lora import AdapterType
from dreambooth_api.parsing.load import dump
from dreambooth_report import card
from dreambooth_report.charts import Level, Line, line_chart
from dreambooth_report.document import render_document
from dreambooth_report.facts import Curve, RunFacts, ScoreFacts, ScorePoint
from dreambooth_report.pictures import Picture, Request

HEADLINES = (ScoreName.SUBJECT_SIMILARITY, ScoreName.PROMPT_SIMILARITY, ScoreName.CLASS_FIDELITY)
"""The scores among the figures at the top."""
VALIDATION_LOSS = "validationLoss"
ADAPTERS: Mapping[AdapterType, str] = {
    "lora": "LoRA",
    "dora": "DoRA",
    "lokr": "LoKr",
    "loha": "LoHa",
}
MANY_HASHES = 400
"""Most hashes that are shown; run.json has all."""


@dataclass(frozen=True)
class Chart:
    """A chart with its heading, and a sentence below it."""

    title: str
    text: str
    svg: Markup
    key: list[tuple[str, bool]] = field(default_factory=list)
    """Names of the lines, where there are several, and whether each has the second color."""


def requests_of(facts: RunFacts) -> set[Request]:
    """The pictures that the page of a run shows."""
    shown: set[Request] = set()
    for subject in facts.subjects:
        shown.update(subject.photos, subject.results)
    for prompt in facts.prompts:
        for strip in prompt.strips:
            shown.update(strip.pictures)
    for images in facts.class_images.values():
        shown.update(images)
    return shown


def render(facts: RunFacts, pictures: Mapping[Request, Picture]) -> str:
    """The page of a run. A picture that is missing is shown as such."""
    wanted = requests_of(facts)
    return render_document(
        "page.html.j2",
        {
            "run": facts,
            "job": facts.job,
            "spec": facts.job.spec,
            "job_file": dump(facts.job),
            "kind": _kind(facts.job),
            "pictures": pictures,
            "missing": len(wanted) - len(wanted & pictures.keys()),
            "figures": list(_figures(facts)),
            "score_charts": list(_score_charts(facts)),
            "selection_charts": list(_selection_charts(facts)),
            "training_charts": list(_training_charts(facts)),
            "slider_steps": [step for step in facts.sample_steps if step > 0],
            "card": card.blocks(facts.card),
            "hashes": dict(list(facts.hashes.items())[:MANY_HASHES]),
        },
        script="script.js",
        filters={"day": _day, "duration": human_duration, "link": safe_link},
    )


def _kind(job: DreamBoothJob) -> str:
    """What the run makes, with its article."""
    training = job.spec.training
    if training.method == "textual-inversion":
        return "A learned token"
    if training.method != "lora" or training.text_encoder.method == "full":
        return "A fine-tuned model"
    return f"A {ADAPTERS[training.lora.type]}"


def safe_link(url: str | None) -> str | None:
    """The URL if following it is harmless; None for any other, such as `javascript:`."""
    return url if url and url.startswith("https://") else None


def _day(time: datetime) -> str:
    return f"{time.astimezone(UTC):%-d %B %Y, %H:%M} UTC"


def _seconds(facts: RunFacts) -> float | None:
    """From the start of the first attempt to the end of the last."""
    started = [each.started for each in facts.attempts if each.started]
    ended = [each.ended for each in facts.attempts if each.ended]
    return (max(ended) - min(started)).total_seconds() if started and ended else None


def _figures(facts: RunFacts) -> Iterator[tuple[str, str, str]]:
    """The few figures at the top: name, value, and what to compare it with."""
    subjects = {score.subject for score in facts.scores}
    for score in facts.scores:
        if score.subject == facts.scores[0].subject and score.name in HEADLINES:
            first, last = score.points[0], _at(score, facts.marked_step)
            beside = [f"of {score.subject} alone"] if len(subjects) > 1 else []
            beside += [f"before {first.value:.3f}"] if first is not last else []
            beside += _share_of_real(last.value, score.real)
            yield score.title, f"{last.value:.3f}", ", ".join(beside)
    photos = sum(len(each.photos) + each.more_photos for each in facts.subjects)
    yield (
        "Photos",
        f"{photos:,}",
        _counted(facts.global_batch, "image per step", "images per step"),
    )
    yield "Steps", f"{facts.steps:,}", ", ".join(_beside_steps(facts))
    if (seconds := _seconds(facts)) is not None:
        count = len(facts.attempts)
        yield "Time", human_duration(seconds), f"{count} attempts" if count > 1 else "one attempt"


def _beside_steps(facts: RunFacts) -> Iterator[str]:
    """How many steps there were to be, and which model was exported if not the last."""
    if facts.steps != (total := facts.job.spec.training.steps):
        yield f"of {total:,}"
    if facts.selection and facts.selection.stopped_early:
        yield "stopped early"
    if facts.chosen_step not in (None, facts.steps):
        yield f"step {facts.chosen_step:,} exported"


def _counted(number: int | None, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}" if number else ""


def _share_of_real(value: float, real: float | None) -> list[str]:
    """How near a score comes to what real photos reach."""
    if real is None:
        return []
    share = f"{value / real:.0%} of " if value > 0 < real else ""
    return [f"{share}real photos ({real:.3f})"]


def _at(score: ScoreFacts, step: int | None) -> ScorePoint:
    """The score at a step; the last one where it has none there."""
    return next((each for each in score.points if each.step == step), score.points[-1])


def _score_charts(facts: RunFacts) -> Iterator[tuple[str, list[Chart]]]:
    """The charts of each subject's scores."""
    for subject in dict.fromkeys(score.subject for score in facts.scores):
        yield (
            subject,
            [
                _score_chart(score, facts.marked_step, name=f"score-{number}")
                for number, score in enumerate(facts.scores)
                if score.subject == subject
            ],
        )


def _score_chart(score: ScoreFacts, chosen: int | None, name: str) -> Chart:
    intervals = [
        (point.step, point.low, point.high)
        for point in score.points
        if point.low is not None and point.high is not None
    ]
    line = Line(
        score.name,
        [(each.step, each.value) for each in score.points],
        dots=True,
        intervals=intervals,
    )
    level = Level("real photos", score.real) if score.real is not None else None
    svg = line_chart(
        f"{score.title} of {score.subject}",
        [line],
        show=_score,
        level=level,
        chosen=chosen,
        name=name,
    )
    title = f"{score.title} ({score.abbreviation})" if score.abbreviation else score.title
    return Chart(title, f"{score.meaning} {score.verdict}", svg)


def _selection_charts(facts: RunFacts) -> Iterator[Chart]:
    """How the exported checkpoint was chosen, if there was a choice."""
    if (selection := facts.selection) is None:
        return
    sentences = [f"{_product(selection.weights)}; the highest is exported."]
    if facts.marked_step in selection.passed_over:
        sentences.append("All are below the limit of the class fidelity: the nearest is exported.")
    elif selection.passed_over:
        steps = ", ".join(f"{step:,}" for step in selection.passed_over)
        sentences.append(f"Passed over, as the class fidelity is below its limit: step {steps}.")
    if selection.stopped_early:
        sentences.append(f"Training {selection.stopped_early}.")
    yield _training_chart(
        "Choice of the checkpoint",
        " ".join(sentences),
        [Line("Score", selection.points, dots=True)],
        _short,
        "selection",
        facts.marked_step,
    )


def _product(weights: Mapping[str, float]) -> str:
    """The scores that a checkpoint is chosen by, as a product; a loss divides."""
    titles = {name.value: definition.title for name, definition in DEFINITIONS.items()}
    factors = [
        ("1 / " if name == VALIDATION_LOSS else "")
        + titles.get(name, "validation loss" if name == VALIDATION_LOSS else name)
        + (f" to the power of {weight:g}" if weight != 1 else "")
        for name, weight in weights.items()
    ]
    product = " x ".join(factors)
    return product[:1].upper() + product[1:]


def _training_charts(facts: RunFacts) -> Iterator[Chart]:
    if "subject_loss" in facts.losses:
        named = {"subject_loss": "Subject loss", "prior_loss": "Class loss"}
        lines = [
            _curve_line(name, facts.losses[key], second=key == "prior_loss")
            for key, name in named.items()
            if key in facts.losses and any(facts.losses[key].raw)
        ]
        text = "Averaged over some steps; single steps are drawn faintly."
        yield _training_chart("Loss", text, lines, _short, "loss")
    if facts.validation_losses:
        held_out = Line("Validation loss", facts.validation_losses, dots=True)
        text = "Of photos that were not trained on; low where the model has learned the subject."
        yield _training_chart(
            "Validation loss", text, [held_out], _short, "validation", facts.marked_step
        )
    if facts.learning_rate:
        rate = facts.learning_rate
        line = Line("Learning rate", list(zip(rate.steps, rate.raw, strict=True)))
        yield _training_chart("Learning rate", "", [line], _scientific, "rate")
    if facts.step_seconds:
        line = _curve_line("Seconds per step", facts.step_seconds)
        yield _training_chart("Seconds per step", "", [line], _short, "speed")


def _curve_line(name: str, curve: Curve, *, second: bool = False) -> Line:
    smooth = list(zip(curve.steps, curve.smooth, strict=True))
    return Line(name, smooth, list(zip(curve.steps, curve.raw, strict=True)), second=second)


def _training_chart(
    title: str,
    text: str,
    lines: list[Line],
    show: Callable[[float], str],
    name: str,
    chosen: int | None = None,
) -> Chart:
    svg = line_chart(
        f"{title} over steps", lines, show=show, chosen=chosen, name=f"training-{name}"
    )
    key = [(line.label, line.second) for line in lines] if len(lines) > 1 else []
    return Chart(title, text, svg, key)


def _score(value: float) -> str:
    return f"{value:.2f}"


def _short(value: float) -> str:
    return _scientific(value) if 0 < abs(value) < 1e-3 else f"{value:.3g}"


def _scientific(value: float) -> str:
    """A small number as people write learning rates: 1e-4."""
    if value == 0:
        return "0"
    digits, exponent = f"{value:.1e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"
