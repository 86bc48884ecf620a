"""What a job asks of its vision-language model: one task for each caption, check or set of prompts.

Pure, except for `run_task`.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from dreambooth_api.models.captioning import Captioning
from dreambooth_api.models.subject import Subject
from dreambooth_api.schema.names import has_identifier
from dreambooth_storage import Storage
from dreambooth_trainer.captioning.answers import Caption, PhotoCheck
from dreambooth_trainer.captioning.ask import ask
from dreambooth_trainer.captioning.captions import caption_of, caption_request, name_subject
from dreambooth_trainer.captioning.models.interface import VisionLanguageModel
from dreambooth_trainer.captioning.photos import (
    check_request,
    difference_hash,
    duplicate_warnings,
    photo_warnings,
)
from dreambooth_trainer.captioning.prompts import write_prompts
from dreambooth_trainer.captioning.record import Written
from dreambooth_trainer.data.images import SourceImage, read_pixels
from dreambooth_trainer.data.subjects import SubjectData
from dreambooth_trainer.resolved_job import ResolvedJob

FORMAT = 1
"""Raised when the questions change, so that a run asks the new ones."""
CLASS_PROMPTS = 1000
"""Their place among the seeds of prompts, behind those of the subjects."""
Kind = Literal["caption", "photo", "duplicates", "prompts", "class prompts"]


@dataclass(frozen=True)
class Task:
    """One thing to ask for.

    Args:
        kind: What is asked for.
        index: Of the subject in `spec.subjects`.
        subject: That subject.
        number: What the answer's seed is counted up by; it depends on the place in the job alone.
        settings: A hash of the fields of `spec.captioning` that the answer depends on.
        images: What it is about: one of a caption, all of the subject for duplicates.
        count: Number of prompts.
    """

    kind: Kind
    index: int
    subject: Subject
    number: int
    settings: str
    images: tuple[SourceImage, ...] = ()
    count: int = 0

    @property
    def of(self) -> str:
        """For people: `sks/0.jpg: caption`."""
        name = self.subject.identifier
        if self.kind == "class prompts":
            name = f"class {self.subject.class_noun}"
        if len(self.images) == 1:
            name = f"{name}/{self.images[0].name}"
        return f"{name}: {self.kind}"

    @property
    def key(self) -> str:
        """sha256, in hexadecimal, of all that the answer depends on."""
        parts = [
            *(FORMAT, self.settings, self.kind, self.number, self.count),
            *(self.subject.identifier, self.subject.class_noun),
            *(image.sha256 for image in self.images),
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def plan_tasks(job: ResolvedJob, subjects: Sequence[SubjectData]) -> list[Task]:
    """Every task of a job with `spec.captioning`, in an order that no attempt changes."""
    captioning = job.spec.captioning
    assert captioning is not None
    settings = _settings(captioning)
    tasks: list[Task] = []
    number = 0
    for index, (subject, data) in enumerate(zip(job.spec.subjects, subjects, strict=True)):
        images = (*data.images, *data.held_out)
        for image in images:
            if image.name in data.undescribed:
                tasks.append(Task("caption", index, subject, number, settings, (image,)))
            if captioning.photo_check:
                tasks.append(Task("photo", index, subject, number, settings, (image,)))
            number += 1  # also where the user wrote one: that changes no other answer
        if captioning.photo_check:
            tasks.append(Task("duplicates", index, subject, 0, settings, images))
    for index, subject in enumerate(job.spec.subjects):
        if count := _share(job.spec.samples.auto_prompts or 0, index, len(job.spec.subjects)):
            tasks.append(Task("prompts", index, subject, index, settings, count=count))
    if count := job.spec.prior.auto_prompts or 0:  # of one class: see the rule of the job
        subject = job.spec.subjects[0]
        tasks.append(Task("class prompts", 0, subject, CLASS_PROMPTS, settings, count=count))
    return tasks


def _settings(captioning: Captioning) -> str:
    """A hash of what answers depend on: not of how an endpoint is reached."""
    asked = captioning.local_model or captioning.endpoint
    assert asked is not None
    fields = captioning.model_dump(mode="json", exclude={"photo_check", "model", "endpoint"})
    fields["model"] = asked.model_dump(mode="json", include={"source", "revision", "model"})
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _share(count: int, index: int, subjects: int) -> int:
    """How many of `count` prompts are of a subject: they take turns."""
    return len(range(index, count, subjects))


def run_task(task: Task, model: VisionLanguageModel, job: ResolvedJob, storage: Storage) -> Written:
    """What the model answers.

    Raises:
        TrainerError: It cannot answer, or gives no valid answer.
        StorageError: An image cannot be read.
    """
    return Written(of=task.of, lines=list(_lines(task, model, job, storage)))


def _lines(
    task: Task, model: VisionLanguageModel, job: ResolvedJob, storage: Storage
) -> Iterable[str]:
    captioning, subject = job.spec.captioning, task.subject
    assert captioning is not None
    # One at a time, as a subject may have thousands.
    names = (image.name for image in task.images)
    photos = zip(names, read_pixels(storage, task.images), strict=True)
    if task.kind == "caption":
        [(name, photo)] = photos
        request = caption_request(captioning, subject, name, photo, task.number)
        [caption] = ask(model, [request], Caption)
        return [caption_of(caption.caption, subject)]
    if task.kind == "photo":
        [(name, photo)] = photos
        request = check_request(captioning, subject, name, photo, task.number)
        [check] = ask(model, [request], PhotoCheck)
        return photo_warnings(name, check, subject.class_noun)
    if task.kind == "duplicates":
        return duplicate_warnings({name: difference_hash(photo) for name, photo in photos})
    seed = captioning.seed + task.number
    prompts = write_prompts(model, captioning, subject.class_noun, task.count, seed)
    if task.kind == "prompts":
        return [name_subject(prompt, subject) for prompt in prompts]
    # Class images show the class in general.
    words = [each.identifier for each in job.spec.subjects]
    return [each for each in prompts if not any(has_identifier(each, word) for word in words)]
