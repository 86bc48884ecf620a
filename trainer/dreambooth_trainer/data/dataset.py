"""The images of a job: its subjects', and their classes' for prior preservation."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from dreambooth_api.models.subject import Subject
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.data.bucket_sampler import BucketSampler
from dreambooth_trainer.data.buckets import fit, nearest_shape
from dreambooth_trainer.data.cache import image_pools
from dreambooth_trainer.data.captions.tags import vary_tags
from dreambooth_trainer.data.crops import Size, Variant, variants
from dreambooth_trainer.data.images import SourceImage, load_images
from dreambooth_trainer.data.latents import ImageGroup
from dreambooth_trainer.data.masks import DEFAULT_WEIGHT
from dreambooth_trainer.data.sampler import TrainingSampler
from dreambooth_trainer.data.subjects import SubjectData, load_subject
from dreambooth_trainer.objectives.objective import Objective
from dreambooth_trainer.resolved_job import ResolvedJob, ResolvedTraining


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
        self,
        global_batch: int,
        latent_shape: Callable[[int, int], tuple[int, int, int]],
        objective: Objective,
    ) -> TrainingSampler | BucketSampler:
        """The sampler of these images.

        Args:
            global_batch: Subject images per optimizer step over all ranks.
            latent_shape: (C, h, w) for width and height of an image.
            objective: Draws the timesteps.
        """
        training = self.job.spec.training
        pools = image_pools(self.groups, training.resolution)
        of_class = dict(zip(self.classes, pools[len(self.subjects) :], strict=True))
        of_subject = list(zip(self.job.spec.subjects, pools, strict=False))
        buckets = []
        for shape in sorted({shape for _, found in of_subject for shape in found}):
            here = [(subject, found) for subject, found in of_subject if shape in found]
            priors = [of_class[subject.class_noun][shape] for subject, _ in here if self.has_prior]
            bucket = TrainingSampler(
                seed=training.seed,
                subjects=[found[shape] for _, found in here],
                priors=priors,
                weights=[
                    shape_weights(subject, {each: pool.size for each, pool in found.items()})[shape]
                    for subject, found in here
                ],
                objective=objective,
                latent_shape=latent_shape(*shape),
                global_batch=global_batch,
                caption_dropout=training.caption_dropout,
                empty_prompt_fraction=self.job.spec.prior.empty_prompt_fraction,
            )
            buckets.append(bucket)
        return buckets[0] if len(buckets) == 1 else BucketSampler(buckets, len(of_subject))

    def uris(self, rows: Iterable[int]) -> list[str]:
        """URIs of the images behind rows of the cache, each named once."""
        of_row = [
            image.uri for group in self.groups for image in group.images for _ in group.variants
        ]
        return list(dict.fromkeys(of_row[row] for row in rows))

    def hashes(self) -> dict[str, str]:
        """sha256 of every image by `<identifier>/<name>`, or `class <noun>/<name>`.

        Class images of several shapes, or with the user's own, can have one name: ` (2)` and so on
        follow from the second on, so that each of them has its hash.
        Captions add one entry for a subject or class that has any but its one prompt:
        `<identifier>: captions` or `class <noun>: captions`. Masks add `<identifier>: masks`.
        """
        hashes: dict[str, str] = {}
        seen = Counter[str]()
        for name, group in self._named_groups():
            for image in group.images:
                seen[file := f"{name}/{image.name}"] += 1
                hashes[file if seen[file] == 1 else f"{file} ({seen[file]})"] = image.sha256
        prompts = {subject.identifier: subject.prompt for subject in self.job.spec.subjects}
        prompts |= {f"class {n}": self.job.spec.prior.class_prompt(n) for n in self.classes}
        for name, group in self._named_groups():
            if set(group.captions) != {prompts[name]}:
                text = "\n".join(group.captions)
                hashes[f"{name}: captions"] = hashlib.sha256(text.encode()).hexdigest()
            if group.outside is not None:
                masks = [image.mask.sha256 if image.mask else "" for image in group.images]
                hashes[f"{name}: masks"] = hashlib.sha256("\n".join(masks).encode()).hexdigest()
        return hashes

    def uris_by_name(self, limit: int = 100) -> dict[str, list[str]]:
        """URIs of the first images of each subject and class, named as in `hashes`."""
        return {
            name: list(dict.fromkeys(image.uri for image in group.images))[:limit]
            for name, group in self._named_groups()
        }

    def captions_by_name(self) -> dict[str, dict[str, str]]:
        """The captions of subjects that a model has described, by identifier and image."""
        return {
            spec.identifier: {
                image.name: caption
                for image, caption in zip(group.images, group.captions, strict=True)
            }
            for spec, group in zip(self.job.spec.subjects, self.subjects, strict=True)
            if spec.has_auto_captions
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


def subject_groups(
    job: ResolvedJob, subjects: Sequence[SubjectData], step: int
) -> list[ImageGroup]:
    """What is trained on: images, captions and crops of every subject.

    `step` is that of the model, see `Family.resolution_step`.
    """
    training = job.spec.training
    crops = variants(training.crop, training.flip)
    groups = []
    for spec, subject in zip(job.spec.subjects, subjects, strict=True):
        outside = None
        if spec.mask is not None:
            outside = DEFAULT_WEIGHT if spec.mask_weight is None else spec.mask_weight
        if training.crop != "none" and not training.lower_resolutions:
            group = ImageGroup(subject.images, subject.captions, crops, outside=outside)
            groups.append(_with_orders(group, job, spec))
            continue
        # Each once, however often the job names it.
        sides = dict.fromkeys([training.resolution, *(training.lower_resolutions or ())])
        shaped, *lower = (
            [
                (image, caption, _shape(training, image, side, step))
                for image, caption in zip(subject.images, subject.captions, strict=True)
            ]
            for side in sides
        )
        every = [*shaped, *(each for found in lower for each in found)]
        lower_shapes = {shape for *_, shape in every} - {shape for *_, shape in shaped}
        group = replace(
            group_by_shape(every, crops), outside=outside, lower_shapes=frozenset(lower_shapes)
        )
        groups.append(_with_orders(group, job, spec))
    return groups


def _shape(training: ResolvedTraining, image: SourceImage, side: int, step: int) -> Size:
    """The shape of an image at a resolution."""
    return nearest_shape(image.size, side, step) if training.crop == "none" else (side, side)


def _with_orders(group: ImageGroup, job: ResolvedJob, subject: Subject) -> ImageGroup:
    """The group with its captions' tags in other orders or left out, where the job says so."""
    training = job.spec.training
    if not training.varies_tags:
        return group
    orders = [
        vary_tags(caption, subject.identifier, training.seed, number, training)
        for number, caption in enumerate(group.captions)
    ]
    return replace(group, orders=orders)


def group_by_shape(
    shaped: Iterable[tuple[SourceImage, str, Size]], crops: Sequence[Variant]
) -> ImageGroup:
    """Images with their captions and shapes, those of a shape one after the other."""
    ordered = sorted(shaped, key=lambda each: each[2])
    return ImageGroup(
        [fit(image, shape) for image, _, shape in ordered],
        [caption for _, caption, _ in ordered],
        crops,
        [shape for _, _, shape in ordered],
    )


def shape_weights(subject: Subject, images: Mapping[Size, int]) -> dict[Size, float]:
    """How often each shape of a subject's images is drawn, relative to those of all subjects.

    Every image is as likely as the others of its subject. `images` is their number by shape.
    """
    total = sum(images.values())
    return {shape: (subject.weight or 1.0) * (size / total) for shape, size in images.items()}


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


def prompts_of(
    job: ResolvedJob, groups: Sequence[ImageGroup], class_captions: Sequence[str] = ()
) -> list[str]:
    """Every text that a job's model is given, the empty caption of dropout included. Pure.

    Args:
        job: The job.
        groups: Images of the subjects, those that are held out included.
        class_captions: Of the user's own class images.
    """
    texts = ["", *(text for group in groups for orders in group.texts for text in orders)]
    texts += [*job.spec.samples.prompts, *class_captions]
    for subject in job.spec.subjects:
        texts += subject.prompt, subject.class_prompt
        texts.append(job.spec.prior.class_prompt(subject.class_noun))
        texts += job.spec.prior.generation_prompts(subject.class_noun)
    return list(dict.fromkeys(texts))
