"""Reads what a run has stored."""

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice

from pydantic import ValidationError

from dreambooth_api.contract.exit_codes import ExitCode
from dreambooth_api.contract.layout import OutputLayout
from dreambooth_api.contract.scores import Scores, UnreadableScoresError
from dreambooth_api.contract.termination import AttemptEnd
from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.models.subject import Subject
from dreambooth_api.schema.names import has_identifier
from dreambooth_report import history
from dreambooth_report.facts import (
    AttemptFacts,
    PromptFacts,
    RunFacts,
    SelectionFacts,
    Strip,
    SubjectFacts,
)
from dreambooth_report.pictures import Request
from dreambooth_report.record import Attempt, Result, RunRecord, read_record
from dreambooth_report.samples import SampleIndex, describe_rest, index, select
from dreambooth_report.scores import over_steps
from dreambooth_storage import ObjectNotFoundError, Storage

LARGE, SMALL = 480, 320
"""Longest sides in pixels: of photos and results, and of everything else."""
MAX_PHOTOS = 48
"""Of all subjects."""
MAX_CAPTIONS = 200
"""Of one subject; run.json has all."""
MAX_RESULTS = 4
MAX_CLASS_IMAGES = 24
"""Of all classes."""
MAX_TEXT_BYTES = 64 * 1024**2
"""Of a file that is read as text; the history of a million steps is longer."""
END = re.compile(r"[0-9]{4}\.json")
"""The name of the file that says how an attempt ended."""


def read_run(storage: Storage, root: str) -> RunFacts:
    """The run in a folder, as far as it has got.

    Raises:
        UnreadableRunError: The folder holds no run, or run.json is damaged.
        StorageError: The folder cannot be read.
    """
    layout = OutputLayout(root.rstrip("/"))
    record = read_record(storage, layout)
    job = record.job
    files = _Files(storage, layout)
    card = files.text(f"{layout.EXPORT}/README.md")
    steps = history.parse(files.text(layout.HISTORY))
    curves = {name: history.curve(steps, name) for name in ("loss", "subject_loss", "prior_loss")}
    texts = job.spec.samples.prompts or [subject.prompt for subject in job.spec.subjects]
    samples = index(
        files.below(layout.SAMPLES),
        len(texts),
        job.spec.samples.count,
        lambda step: files.text(layout.sample_settings(step).removeprefix(f"{layout.root}/")),
    )
    scored = _scores(files)
    chosen = _chosen_step(job, scored) if card else None
    best = None if card else record.result.best_step
    shown = select(samples, chosen)
    prompts = _prompts(job, texts, layout, shown)
    return RunFacts(
        root=layout.root,
        job=job,
        done=bool(card),
        steps=max((entry["step"] for entry in steps), default=0),
        chosen_step=chosen,
        best_step=best,
        encoders=_encoders(scored),
        subjects=[_subject(record, each, prompts, chosen) for each in job.spec.subjects],
        prompts=prompts,
        sample_steps=shown.steps,
        class_images=_class_images(record),
        losses={name: curve for name, curve in curves.items() if curve},
        learning_rate=history.curve(steps, "learning_rate"),
        step_seconds=history.curve(steps, "seconds"),
        validation_losses=history.validation_losses(
            [files.text(f"{layout.SELECTION}/{path}") for path in files.below(layout.SELECTION)]
        ),
        scores=over_steps(
            [each for each in scored if each.step not in samples.former],
            judged=best if chosen is None else chosen,
        ),
        selection=_selection(record.result),
        warnings=record.warnings,
        notes=record.notes,
        attempts=_attempts(record, files),
        versions=record.attempts[-1].versions if record.attempts else {},
        seeds=record.seeds,
        hashes=record.hashes,
        license=record.model_license.name if record.model_license else "",
        license_link=record.model_license.link if record.model_license else None,
        global_batch=record.global_batch,
        card=card,
        left_out=describe_rest(samples, shown),
    )


class _Files:
    """The files of a run, without its checkpoints and weights."""

    def __init__(self, storage: Storage, layout: OutputLayout) -> None:
        self._storage = storage
        self._layout = layout
        self._sizes = {item.relative: item.size for item in storage.list(layout.root)}

    def below(self, folder: str) -> list[str]:
        """Paths of the files below a folder of the run, relative to it."""
        prefix = f"{folder}/"
        return [path.removeprefix(prefix) for path in self._sizes if path.startswith(prefix)]

    def text(self, path: str) -> str:
        """The content of a file; empty where there is none, or one that is too long."""
        size = self._sizes.get(path)
        if size is None or size > MAX_TEXT_BYTES:
            return ""
        try:
            return self._storage.read(self._layout.path(path)).decode(errors="replace")
        except ObjectNotFoundError:  # deleted since it was listed
            return ""


def _prompts(
    job: DreamBoothJob, texts: Sequence[str], layout: OutputLayout, shown: SampleIndex
) -> list[PromptFacts]:
    if not shown.steps:
        return []
    return [
        PromptFacts(
            text,
            of_class=not any(has_identifier(text, each.identifier) for each in job.spec.subjects),
            strips=[
                Strip(
                    step,
                    [
                        (f"{layout.samples(step)}/{number}-{seed}.png", SMALL)
                        for seed in range(shown.seeds)
                    ],
                )
                for step in shown.steps
            ],
        )
        for number, text in enumerate(texts[: shown.prompts])
    ]


def _subject(
    record: RunRecord, subject: Subject, prompts: Sequence[PromptFacts], chosen: int | None
) -> SubjectFacts:
    photos = record.images.get(subject.identifier, [])
    limit = max(1, MAX_PHOTOS // len(record.job.spec.subjects))
    word = subject.identifier
    strips = next((each.strips for each in prompts if has_identifier(each.prompt, word)), ())
    trained = [strip for strip in strips if strip.step > 0]
    results = [strip for strip in trained if strip.step == chosen] or trained
    return SubjectFacts(
        subject.identifier,
        subject.class_noun,
        photos=[(uri, LARGE) for uri in photos[:limit]],
        more_photos=max(0, len(photos) - limit),
        captions=dict(islice(record.captions.get(subject.identifier, {}).items(), MAX_CAPTIONS)),
        results=[(uri, LARGE) for uri, _ in results[-1].pictures[:MAX_RESULTS]] if results else [],
    )


def _class_images(record: RunRecord) -> dict[str, list[Request]]:
    if record.job.spec.prior.count == 0:  # the photos stand in, which are shown already
        return {}
    nouns = list(dict.fromkeys(subject.class_noun for subject in record.job.spec.subjects))
    limit = max(1, MAX_CLASS_IMAGES // len(nouns))
    uris = {noun: record.images.get(f"class {noun}", [])[:limit] for noun in nouns}
    return {noun: [(uri, SMALL) for uri in each] for noun, each in uris.items() if each}


def _scores(files: _Files) -> list[Scores]:
    """The scores of each step, those of the exported model last."""
    paths = [f"scores/{path}" for path in files.below("scores")]
    found = []
    for path in [*paths, OutputLayout.SCORES]:
        # Of another version, or damaged: the page does without.
        with suppress(UnreadableScoresError):
            found.append(Scores.decode(files.text(path).encode()))
    return found


def _chosen_step(job: DreamBoothJob, scored: Sequence[Scores]) -> int:
    exported = [each.exported_step for each in scored if each.exported_step is not None]
    return exported[-1] if exported else job.spec.training.steps


def _selection(result: Result) -> SelectionFacts | None:
    if len(result.evaluations) < 2:  # without spec.evaluation.every, the last step is exported
        return None
    return SelectionFacts(
        result.weights,
        [(each.step, each.score) for each in result.evaluations],
        [each.step for each in result.evaluations if each.passed_over],
        result.stopped_early or "",
    )


def _encoders(scored: Sequence[Scores]) -> list[str]:
    return [scored[-1].encoders.image.name, scored[-1].encoders.text.name] if scored else []


def _attempts(record: RunRecord, files: _Files) -> list[AttemptFacts]:
    """The attempts of run.json, and those that ended before they were recorded there."""
    recorded = {each.attempt: each for each in record.attempts}
    ended = {int(name[:4]) for name in files.below(OutputLayout.ATTEMPTS) if END.fullmatch(name)}
    numbers = sorted(recorded.keys() | ended)
    attempts = []
    for number in numbers:
        each = recorded.get(number, Attempt(attempt=number, world_size=0))
        try:
            text = files.text(f"{OutputLayout.ATTEMPTS}/{number:04d}.json")
            end = AttemptEnd.model_validate_json(text)
        except ValidationError:
            end = None
        attempts.append(
            AttemptFacts(
                number,
                started=each.started_at,
                ended=end.ended_at if end else None,
                ranks=each.world_size,
                devices=", ".join(_counted(each.devices)),
                resumed_from=each.resumed_from_step,
                end=_describe_end(end, is_last=number == numbers[-1]),
                failed=end is not None and end.exit_code not in (ExitCode.DONE, ExitCode.STOPPED),
            )
        )
    return attempts


def _describe_end(end: AttemptEnd | None, is_last: bool) -> str:
    if end is not None:
        return "Succeeded." if end.exit_code == ExitCode.DONE else end.message
    if is_last:
        return "It is still running, or was killed."
    return "It left no message: it was killed, or its node was lost."


def _counted(names: Sequence[str]) -> list[str]:
    counts = Counter(names)
    return [f"{count} x {name}" if count > 1 else name for name, count in counts.items()]
