"""The images of a job: its subjects', and their classes' for prior preservation."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.data.cache import image_pools
from dreambooth_trainer.data.crops import variants
from dreambooth_trainer.data.images import load_images
from dreambooth_trainer.data.latents import ImageGroup
from dreambooth_trainer.data.prior.class_images import prepare_class_images
from dreambooth_trainer.data.prior.own_class_images import OwnClassImages
from dreambooth_trainer.data.sampler import TrainingSampler
from dreambooth_trainer.data.subjects import SubjectData, load_subject
from dreambooth_trainer.models import Family
from dreambooth_trainer.objectives.objective import Objective
from dreambooth_trainer.resolved_job import ResolvedJob


@dataclass(frozen=True)
class Dataset:
    """Groups of images, the subjects' first; `classes` has one group per class noun."""

    job: ResolvedJob
    subjects: Sequence[ImageGroup]
    classes: dict[str, ImageGroup]

    @property
    def groups(self) -> list[ImageGroup]:
        """All groups, in the order of their rows in the cache."""
        return [*self.subjects, *self.classes.values()]

    @property
    def has_prior(self) -> bool:
        """Whether class images are trained on (Ruiz et al. 2022, section 3.3)."""
        return bool(self.classes)

    def sampler(
        self, global_batch: int, latent_shape: tuple[int, int, int], objective: Objective
    ) -> TrainingSampler:
        """The sampler of these images.

        Args:
            global_batch: Subject images per optimizer step over all ranks.
            latent_shape: (C, h, w).
            objective: Draws the timesteps.
        """
        pools = image_pools(self.groups)
        of_class = dict(zip(self.classes, pools[len(self.subjects) :], strict=True))
        subjects = self.job.spec.subjects
        return TrainingSampler(
            seed=self.job.spec.training.seed,
            subjects=pools[: len(self.subjects)],
            priors=[of_class[s.class_noun] for s in subjects] if self.has_prior else [],
            weights=[s.weight or 1.0 for s in subjects],
            objective=objective,
            latent_shape=latent_shape,
            global_batch=global_batch,
            caption_dropout=self.job.spec.training.caption_dropout,
            empty_prompt_fraction=self.job.spec.prior.empty_prompt_fraction,
        )

    def uris(self, rows: Iterable[int]) -> list[str]:
        """URIs of the images behind rows of the cache, each named once."""
        of_row = [
            image.uri for group in self.groups for image in group.images for _ in group.variants
        ]
        return list(dict.fromkeys(of_row[row] for row in rows))

    def hashes(self) -> dict[str, str]:
        """sha256 of every image by `<identifier>/<name>`, or `class <noun>/<name>`.

        Captions add one entry for a subject or class that has any but its one prompt:
        `<identifier>: captions` or `class <noun>: captions`.
        """
        hashes = {
            f"{name}/{image.name}": image.sha256
            for name, group in self._named_groups()
            for image in group.images
        }
        prompts = {subject.identifier: subject.prompt for subject in self.job.spec.subjects}
        prompts |= {f"class {n}": self.job.spec.prior.class_prompt(n) for n in self.classes}
        for name, group in self._named_groups():
            if set(group.captions) != {prompts[name]}:
                text = "\n".join(group.captions)
                hashes[f"{name}: captions"] = hashlib.sha256(text.encode()).hexdigest()
        return hashes

    def uris_by_name(self, limit: int = 100) -> dict[str, list[str]]:
        """URIs of the first images of each subject and class, named as in `hashes`."""
        return {
            name: [image.uri for image in group.images[:limit]]
            for name, group in self._named_groups()
        }

    def _named_groups(self) -> Iterator[tuple[str, ImageGroup]]:
        identifiers = [subject.identifier for subject in self.job.spec.subjects]
        yield from zip(identifiers, self.subjects, strict=True)
        yield from ((f"class {noun}", group) for noun, group in self.classes.items())


def load_subjects(attempt: Attempt) -> list[SubjectData]:
    """Images and captions of every subject. Collective: rank 0 checks them.

    Preflight has logged the warnings about them.

    Raises:
        BadDataError: A subject has no usable images, or captions that cannot be used.
        StorageError: They cannot be read.
    """
    return attempt.ranks.run_on_first(
        lambda: [
            load_subject(attempt.storage, attempt.job, index)
            for index in range(len(attempt.job.spec.subjects))
        ]
    )


def subject_groups(job: ResolvedJob, subjects: Sequence[SubjectData]) -> list[ImageGroup]:
    """What is trained on: images, captions and crops of every subject."""
    crops = variants(job.spec.training.crop, job.spec.training.flip)
    return [ImageGroup(subject.images, subject.captions, crops) for subject in subjects]


def held_out_groups(attempt: Attempt, subjects: Sequence[SubjectData]) -> list[ImageGroup]:
    """Images that are not trained on, one group for each subject that has any. Collective.

    They are its `evaluationImages`, and those that `spec.evaluation.holdOut` leaves out.

    Raises:
        BadDataError: `evaluationImages` has no image that can be used.
        StorageError: They cannot be read.
    """
    if attempt.job.spec.evaluation is None:
        return []
    groups = []
    for index, (subject, data) in enumerate(zip(attempt.job.spec.subjects, subjects, strict=True)):
        images, captions = list(data.held_out), list(data.held_out_captions)
        if subject.evaluation_images is not None:
            load = partial(
                load_images,
                attempt.storage,
                subject.evaluation_images,
                field=f"spec.subjects[{index}].evaluationImages",
                resolution=attempt.job.spec.training.resolution,
            )
            loaded = attempt.ranks.run_on_first(load)
            images += loaded.images
            captions += [subject.prompt] * len(loaded.images)
        if images:
            groups.append(ImageGroup(images, captions, variants("center", flip=False)))
    return groups


def class_groups(
    attempt: Attempt, family: Family, subjects: Sequence[ImageGroup], own: OwnClassImages
) -> dict[str, ImageGroup]:
    """Class images by class noun, for prior preservation (Ruiz et al. 2022, section 3.3).

    Missing ones are generated by all ranks. Collective. Empty where the prior is off.

    Args:
        attempt: The attempt.
        family: The base model.
        subjects: Images of the subjects, which stand in where `spec.prior.count` is 0.
        own: The user's class images, of the class that all subjects have.

    Raises:
        StoppedError: On every rank, when one was asked to stop.
    """
    job = attempt.job
    prior = job.spec.prior
    if not prior.enabled or prior.weight == 0:
        return {}
    groups = {}
    for noun in dict.fromkeys(subject.class_noun for subject in job.spec.subjects):
        if prior.count:
            found = prepare_class_images(attempt, family, noun, own)
            crops = variants("center", job.spec.training.flip)
            groups[noun] = ImageGroup(found.images, found.captions, crops)
        else:
            pairs = zip(job.spec.subjects, subjects, strict=True)
            of_class = [group for subject, group in pairs if subject.class_noun == noun]
            images = [image for group in of_class for image in group.images]
            texts = [prior.class_prompt(noun)] * len(images)
            groups[noun] = ImageGroup(images, texts, of_class[0].variants)
    return groups


def prompts_of(
    job: ResolvedJob, groups: Sequence[ImageGroup], class_captions: Sequence[str] = ()
) -> list[str]:
    """Every text that a job's model is given, the empty caption of dropout included. Pure.

    Args:
        job: The job.
        groups: Images of the subjects, those that are held out included.
        class_captions: Of the user's own class images.
    """
    texts = ["", *(caption for group in groups for caption in group.captions)]
    texts += [*job.spec.samples.prompts, *class_captions]
    for subject in job.spec.subjects:
        texts += subject.prompt, subject.class_prompt
        texts.append(job.spec.prior.class_prompt(subject.class_noun))
        texts += job.spec.prior.generation_prompts(subject.class_noun)
    return list(dict.fromkeys(texts))
