"""Rules of the data: subjects and their class, captions, scores, and where files lie."""

from collections.abc import Iterable, Iterator, Sequence

from dreambooth_api.models.sections import Sections
from dreambooth_api.models.subject import Subject
from dreambooth_api.schema.names import (
    has_identifier,
    has_identifier_cel,
    is_same_folder,
    is_same_folder_cel,
    lower_ascii,
)
from dreambooth_api.schema.rules import rule


class SubjectRules(Sections):
    """What the images, their texts and their places may be."""

    @rule(
        "subjects",
        "self.subjects.all(a, self.subjects.exists_one(b,"
        " b.identifier.lowerAscii() == a.identifier.lowerAscii()))",
        "each identifier must be used once (letter case does not count); rename one",
        lambda spec: _repeated_identifier(spec.subjects),
    )
    def _identifiers_are_unique(self) -> bool:
        # CLIP's tokenizer lowers its text: `Sks` and `sks` are one word to the model.
        identifiers = [lower_ascii(subject.identifier) for subject in self.subjects]
        return len(set(identifiers)) == len(identifiers)

    @rule(
        "subjects",
        "!self.subjects.exists(a, self.subjects.exists(b,"
        f" {has_identifier_cel('b.classNoun', 'a.identifier')}))",
        "an identifier must not be a word of a classNoun; choose a rare word as identifier",
        lambda spec: _identifier_of_a_class(spec.subjects),
    )
    def _identifiers_are_no_class(self) -> bool:
        return not any(self._names_a_subject(each.class_noun) for each in self.subjects)

    @rule(
        "prior.prompt",
        f"!self.subjects.exists(s, {has_identifier_cel('self.prior.prompt', 's.identifier')})",
        "must not contain an identifier, as class images show the class in general; remove it",
    )
    def _prior_prompt_is_general(self) -> bool:
        return not self._names_a_subject(self.prior.prompt)

    @rule(
        "prior.prompt",
        "!self.prior.enabled || self.prior.prompt.contains('{class}')"
        " || self.subjects.all(s, s.classNoun == self.subjects[0].classNoun)",
        "must contain {class} when the subjects have different class nouns;"
        " write {class} for the class",
    )
    def _prior_prompt_names_the_class(self) -> bool:
        return not self.prior.enabled or "{class}" in self.prior.prompt or self._is_of_one_class()

    @rule(
        "prior.prompts",
        "!self.subjects.exists(s, self.prior.prompts.exists(p,"
        f" {has_identifier_cel('p', 's.identifier')}))",
        "must not contain an identifier, as class images show the class in general; remove it",
    )
    def _prior_prompts_are_general(self) -> bool:
        return not any(self._names_a_subject(each) for each in self.prior.prompts)

    @rule(
        "prior.prompts",
        "!self.prior.enabled || self.prior.prompts.all(p, p.contains('{class}'))"
        " || self.subjects.all(s, s.classNoun == self.subjects[0].classNoun)",
        "must each contain {class} when the subjects have different class nouns;"
        " write {class} for the class",
    )
    def _prior_prompts_name_the_class(self) -> bool:
        named = all("{class}" in each for each in self.prior.prompts)
        return not self.prior.enabled or named or self._is_of_one_class()

    @rule(
        "prior.images",
        "!self.prior.enabled || !has(self.prior.images)"
        " || self.subjects.all(s, s.classNoun == self.subjects[0].classNoun)",
        "shows one class, and the subjects have different class nouns; remove it, so that the"
        " images of each class are generated, or train each class in a job of its own",
    )
    def _prior_images_show_the_class(self) -> bool:
        return not self.prior.enabled or self.prior.images is None or self._is_of_one_class()

    @rule(
        "subjects",
        "!self.subjects.exists(a, has(a.evaluationImages) && self.subjects.exists(b,"
        " a.identifier != b.identifier"
        f" && {is_same_folder_cel('a.evaluationImages', 'b.images')}))",
        "evaluationImages must not be the images of another subject, which show that one and are"
        " trained on; name another folder",
        lambda spec: f"and those of {_trained_on(spec.subjects)}",
    )
    def _evaluation_images_are_of_no_other(self) -> bool:
        return next(_evaluated_by_others(self.subjects), None) is None

    @rule(
        "prior.images",
        "!self.prior.enabled || !has(self.prior.images) || !self.subjects.exists(s,"
        f" {is_same_folder_cel('s.images', 'self.prior.images')} || has(s.evaluationImages)"
        f" && {is_same_folder_cel('s.evaluationImages', 'self.prior.images')})",
        "are a subject's own, and would teach the class to look like it; name a folder of others,"
        " or remove it, so that they are generated",
    )
    def _prior_images_are_others(self) -> bool:
        folder = self.prior.images
        if not self.prior.enabled or folder is None:
            return True
        own = [each for s in self.subjects for each in (s.images, s.evaluation_images) if each]
        return not any(is_same_folder(each, folder) for each in own)

    @rule(
        "captioning",
        "has(self.captioning) || !(has(self.samples.autoPrompts) || has(self.prior.autoPrompts)"
        " || self.subjects.exists(s, has(s.captions) && s.captions == 'auto'))",
        "is required by captions: auto and by autoPrompts; name a model, or write captioning: {}"
        " for Ministral 3 8B",
    )
    def _auto_has_a_model(self) -> bool:
        return self.captioning is not None or not self.has_auto

    @rule(
        "prior.autoPrompts",
        "!has(self.prior.autoPrompts)"
        " || self.subjects.all(s, s.classNoun == self.subjects[0].classNoun)",
        "are of one class, and the subjects have different class nouns; write prior.prompts with"
        " {class} instead",
    )
    def _auto_prompts_are_of_the_class(self) -> bool:
        return self.prior.auto_prompts is None or self._is_of_one_class()

    @rule(
        "evaluation.select.scores",
        "!has(self.evaluation) || self.evaluation.holdOut > 0"
        " || !self.evaluation.select.scores.exists(s, s.name == 'validationLoss')"
        " || self.subjects.exists(s, has(s.evaluationImages))",
        "validationLoss needs images that are not trained on; set evaluation.holdOut, or"
        " evaluationImages of a subject",
    )
    def _validation_loss_has_images(self) -> bool:
        evaluation = self.evaluation
        if evaluation is None or evaluation.hold_out > 0:
            return True
        by_loss = any(each.name == "validationLoss" for each in evaluation.select.scores)
        return not by_loss or any(subject.evaluation_images for subject in self.subjects)

    @rule(
        "output",
        "!self.storage.anonymousBuckets.exists(b,"
        " (self.output + '/').startsWith('s3://' + b + '/'))",
        "is in a bucket of storage.anonymousBuckets, to which nothing is written; choose another"
        " bucket, or remove it from there",
    )
    def _output_needs_credentials(self) -> bool:
        return not is_in_buckets(self.output, self.storage.anonymous_buckets)

    @rule(
        "prior.cache",
        "!has(self.prior.cache) || !self.storage.anonymousBuckets.exists(b,"
        " (self.prior.cache + '/').startsWith('s3://' + b + '/'))",
        "is in a bucket of storage.anonymousBuckets, to which nothing is written; choose another"
        " bucket, or remove it from there",
    )
    def _prior_cache_needs_credentials(self) -> bool:
        cache = self.prior.cache
        return cache is None or not is_in_buckets(cache, self.storage.anonymous_buckets)

    def _is_of_one_class(self) -> bool:
        return len({subject.class_noun for subject in self.subjects}) == 1

    def _names_a_subject(self, text: str) -> bool:
        return any(has_identifier(text, subject.identifier) for subject in self.subjects)


def _repeated_identifier(subjects: Sequence[Subject]) -> str:
    identifiers = [lower_ascii(subject.identifier) for subject in subjects]
    again, first = next(
        (index, identifiers.index(each))
        for index, each in enumerate(identifiers)
        if each in identifiers[:index]
    )
    return f"and subjects[{again}] repeats that of subjects[{first}]"


def _identifier_of_a_class(subjects: Sequence[Subject]) -> str:
    one, other = next(
        (one, other)
        for one, subject in enumerate(subjects)
        for other, another in enumerate(subjects)
        if has_identifier(another.class_noun, subject.identifier)
    )
    return f"and that of subjects[{one}] is one in subjects[{other}]"


def _trained_on(subjects: Sequence[Subject]) -> str:
    one, other = next(_evaluated_by_others(subjects))
    return f"subjects[{one}] are the images of subjects[{other}]"


def _evaluated_by_others(subjects: Sequence[Subject]) -> Iterator[tuple[int, int]]:
    """Indices of subjects whose evaluationImages are the images of another one, and of that."""
    for one, subject in enumerate(subjects):
        for other, another in enumerate(subjects):
            folder = subject.evaluation_images
            if one != other and folder is not None and is_same_folder(folder, another.images):
                yield one, other


def is_in_buckets(uri: str, buckets: Iterable[str]) -> bool:
    """Whether a URI is that of something in one of the buckets, given by name."""
    return any(f"{uri}/".startswith(f"s3://{bucket}/") for bucket in buckets)
