"""The stage Captioning: what a vision-language model writes for a job, before training begins.

The base model is loaded afterwards. The other way round both would be on the device at once, as a
vision-language model is often the larger of the two; this way it has the device to itself, and its
memory is free again when the base model comes. Nothing that it writes needs the base model.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.captioning.models.open import open_model
from dreambooth_trainer.captioning.record import Written, read_answers, write_answers
from dreambooth_trainer.captioning.tasks import Kind, Task, plan_tasks, run_task
from dreambooth_trainer.data.images import SourceImage
from dreambooth_trainer.data.subjects import SubjectData
from dreambooth_trainer.process.chunks import own_chunks
from dreambooth_trainer.process.out_of_memory import explain_out_of_memory
from dreambooth_trainer.process.signals import StoppedError
from dreambooth_trainer.resolved_job import ResolvedJob

log = logging.getLogger(__name__)

KEPT_AT_ONCE = 8
"""Answers of a rank; those of all ranks are written to captions.json together."""

Answers = Sequence[tuple[Task, Sequence[str]]]


def write_captions(
    attempt: Attempt, subjects: Sequence[SubjectData], check_owner: Callable[[], None]
) -> tuple[Attempt, list[SubjectData]]:
    """The attempt with its job's prompts written, and the subjects with their captions. Collective.

    What captions.json has is not asked for again, so that every attempt trains on the same. A job
    without `spec.captioning` is returned as it is.

    Args:
        attempt: The current one.
        subjects: Its images.
        check_owner: Raises `FencedError` when a newer attempt owns the output. Collective.

    Raises:
        TrainerError: The model cannot be used or answers nonsense, or the endpoint refuses.
        StorageError: Storage fails or refuses.
        StoppedError: On every rank, when one was asked to stop.
    """
    if attempt.job.spec.captioning is None:
        return attempt, list(subjects)
    attempt.enter_stage("Captioning")
    tasks = plan_tasks(attempt.job, subjects)
    known = attempt.ranks.run_on_first(lambda: read_answers(attempt.storage, attempt.layout))
    missing = [task for task in tasks if task.key not in known]
    if missing:

        def keep(answers: Mapping[str, Written]) -> None:
            known.update(answers)
            check_owner()  # as for run.json: a newer attempt may have written its own
            attempt.ranks.run_on_first(
                lambda: write_answers(attempt.storage, attempt.layout, known)
            )

        with explain_out_of_memory("captioning", attempt.job):
            _ask(attempt, missing, keep)
    written = [(task, known[task.key].lines) for task in tasks]
    if attempt.topology.rank == 0:
        _report(attempt, written, asked=len(missing))
    job = _with_prompts(attempt.job, written)
    return replace(attempt, job=job), [
        _with_captions(data, index, written) for index, data in enumerate(subjects)
    ]


def _ask(
    attempt: Attempt, tasks: Sequence[Task], keep: Callable[[Mapping[str, Written]], None]
) -> None:
    """Ask for all answers, and `keep` some at a time, by their keys, on every rank. Collective.

    An attempt that is killed loses the last few of each rank.
    """
    spec, ranks = attempt.job.spec, attempt.ranks
    assert spec.captioning is not None
    progress = attempt.telemetry.progress
    progress.record_answers(0, len(tasks))
    at_once = KEPT_AT_ONCE * attempt.topology.world_size
    arguments = attempt.storage, ranks, attempt.device
    with open_model(spec.captioning, *arguments, base=spec.model) as model:
        for start in range(0, len(tasks), at_once):
            some = tasks[start : start + at_once]

            def ask_own(start: int = start, some: Sequence[Task] = some) -> dict[str, Written]:
                own: dict[str, Written] = {}
                # A task is its own chunk: no answer depends on what else is asked.
                for [task] in own_chunks(some, attempt.topology, 1).values():
                    if attempt.stop.requested:
                        break  # not raised here: the other ranks wait in the collective
                    own[task.key] = run_task(task, model, attempt.job, attempt.storage)
                    done = start + len(own) * attempt.topology.world_size  # the others are as far
                    progress.record_answers(min(done, len(tasks)), len(tasks))
                return own

            found = {k: each for own in ranks.run_on_all(ask_own) for k, each in own.items()}
            keep({task.key: found[task.key] for task in some if task.key in found})
            if any(ranks.gather(attempt.stop.requested)):
                raise StoppedError("asked to stop while captioning; the next attempt goes on")


def _report(attempt: Attempt, written: Answers, *, asked: int) -> None:
    """Log what was written, and add what is wrong with photos to the warnings. Rank 0 alone."""
    log.info("captioning: %d answer(s), %d of them new", len(written), asked)
    found = [
        f"{task.images[0].field}: {line}"
        for task, lines in written
        if task.kind in ("photo", "duplicates")
        for line in lines
    ]
    for warning in found:
        log.warning(warning)
    telemetry = attempt.telemetry
    telemetry.record_checks([*telemetry.warnings, *found], telemetry.notes)


def _with_prompts(job: ResolvedJob, written: Answers) -> ResolvedJob:
    """The job as if its user had written the prompts: what trains and reports reads them there."""

    def lines(kind: Kind) -> list[str]:
        return [line for task, each in written if task.kind == kind for line in each]

    spec = job.spec
    samples = {"prompts": [*spec.samples.prompts, *lines("prompts")], "auto_prompts": None}
    prior = {"prompts": [*spec.prior.prompts, *lines("class prompts")], "auto_prompts": None}
    changed = {
        "samples": spec.samples.model_copy(update=samples),
        "prior": spec.prior.model_copy(update=prior),
    }
    return job.model_copy(update={"spec": spec.model_copy(update=changed)})


def _with_captions(data: SubjectData, index: int, written: Answers) -> SubjectData:
    """The subject's images with their captions; the user's own stay."""
    texts = {
        task.images[0].name: lines[0]
        for task, lines in written
        if task.kind == "caption" and task.index == index
    }

    def fill(images: Sequence[SourceImage], captions: Sequence[str]) -> list[str]:
        pairs = zip(images, captions, strict=True)
        return [texts.get(image.name, caption) for image, caption in pairs]

    return replace(
        data,
        captions=fill(data.images, data.captions),
        held_out_captions=fill(data.held_out, data.held_out_captions),
        undescribed=frozenset(),
    )
