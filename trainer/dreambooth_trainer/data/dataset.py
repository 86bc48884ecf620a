"""The images of a job: its subjects', and their classes' for prior preservation."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from dreambooth_api.models.subject import Subject
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.data.bucket_sampler import BucketSampler
from dreambooth_trainer.data.buckets import fit, nearest_shape
from dreambooth_trainer.data.cache import image_pools
from dreambooth_trainer.data.crops import Size, Variant, variants
from dreambooth_trainer.data.images import SourceImage, load_images
from dreambooth_trainer.data.latents import ImageGroup
from dreambooth_trainer.data.prior.class_images import prepare_class_images
from dreambooth_trainer.data.prior.class_shapes import divide_among_shapes
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


def subject_groups(
    job: ResolvedJob, subjects: Sequence[SubjectData], step: int
) -> list[ImageGroup]:
    """What is trained on: images, captions and crops of every subject.

    `step` is that of the model, see `Family.resolution_step`.
    """
    training = job.spec.training
    crops = variants(training.crop, training.flip)
    if training.crop != "none":
        return [ImageGroup(subject.images, subject.captions, crops) for subject in subjects]
    groups = []
    for subject in subjects:
        shaped = [
            (image, caption, nearest_shape(image.size, training.resolution, step))
            for image, caption in zip(subject.images, subject.captions, strict=True)
        ]
        groups.append(_group(shaped, crops))
    return groups


def _group(shaped: Iterable[tuple[SourceImage, str, Size]], crops: Sequence[Variant]) -> ImageGroup:
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
    crops = variants("center", job.spec.training.flip)
    for noun in dict.fromkeys(subject.class_noun for subject in job.spec.subjects):
        pairs = zip(job.spec.subjects, subjects, strict=True)
        of_class = [(subject, group) for subject, group in pairs if subject.class_noun == noun]
        if prior.count and job.spec.training.crop == "none":
            weights = _weights_of_shapes(of_class)
            groups[noun] = _shaped_class_images(attempt, family, noun, own, weights)
        elif prior.count:
            found = prepare_class_images(attempt, family, noun, own, prior.count)
            groups[noun] = ImageGroup(found.images, found.captions, crops)
        else:
            groups[noun] = _stand_in(of_class, prior.class_prompt(noun))
    return groups


def _weights_of_shapes(of_class: Sequence[tuple[Subject, ImageGroup]]) -> Counter[Size]:
    """How often each shape is drawn of a class's subjects."""
    weights: Counter[Size] = Counter()
    for subject, group in of_class:
        weights.update(shape_weights(subject, Counter(group.shapes)))
    return weights


def _shaped_class_images(
    attempt: Attempt,
    family: Family,
    noun: str,
    own: OwnClassImages,
    weights: Mapping[Size, float],
) -> ImageGroup:
    """Class images in the shapes of the subject's images. Collective."""
    spec = attempt.job.spec
    shaped: list[tuple[SourceImage, str, Size]] = []
    for share in divide_among_shapes(spec.prior.count, own, weights):
        found = prepare_class_images(attempt, family, noun, share.own, share.count, share.shape)
        pairs = zip(found.images, found.captions, strict=True)
        shaped += [(image, caption, share.shape) for image, caption in pairs]
    return _group(shaped, variants("none", spec.training.flip))


def _stand_in(of_class: Sequence[tuple[Subject, ImageGroup]], prompt: str) -> ImageGroup:
    """The subjects' images in place of those of their class."""
    groups = [group for _, group in of_class]
    images = [image for group in groups for image in group.images]
    if groups[0].shapes is None:
        return ImageGroup(images, [prompt] * len(images), groups[0].variants)
    shapes = [shape for group in groups for shape in group.shapes or ()]
    shaped = [(image, prompt, shape) for image, shape in zip(images, shapes, strict=True)]
    return _group(shaped, groups[0].variants)


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
