"""Captions of the subject's images."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from dreambooth_api.models.subject import Subject
from dreambooth_api.schema.names import has_identifier
from dreambooth_storage import EmptyPrefixError, Storage, StoredObject, printable
from dreambooth_trainer.data.captions.files import plain_name, read_caption_files
from dreambooth_trainer.data.images import SourceImage
from dreambooth_trainer.process.errors import BadDataError


@dataclass(frozen=True)
class Captions:
    """One caption per image, in the images' order, and warnings and notes about them.

    undescribed: names of images that a vision-language model is to describe (captions: auto). Until
    then, theirs is the instance prompt.
    """

    texts: list[str]
    undescribed: frozenset[str] = frozenset()
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def load_captions(
    storage: Storage, subject: Subject, images: Sequence[SourceImage], index: int
) -> Captions:
    """Captions of the images of `spec.subjects[index]`.

    With a `captions` folder, every image must have a caption there (see `caption_files`). Without
    it, captions beside the images are used; an image without one has the instance prompt, or with
    `captions: auto` is to be described.

    Raises:
        BadDataError: Captions are missing, empty, not UTF-8 or too long; all of them are listed.
        StorageError: The folder cannot be read.
    """
    beside = subject.captions_folder is None
    path = f"spec.subjects[{index}].{'images' if beside else 'captions'}"
    folder = subject.captions_folder or subject.images
    listed = _list(storage, folder, path)
    found = read_caption_files(storage, listed, [image.name for image in images], field=path)
    problems = found.problems
    if not beside:
        problems += [
            f"{printable(name)} has none: add {printable(plain_name(name))}"
            for name in found.missing
        ]
    if problems:
        head = f"{path}: {len(problems)} caption(s) in {folder} must be corrected:"
        raise BadDataError("\n  ".join([head, *problems]))
    texts = [found.texts.get(image.name, subject.prompt) for image in images]
    if subject.add_identifier:
        begun = [_with_identifier(text, subject) for text in texts]
        added = sum(text != before for text, before in zip(begun, texts, strict=True))
        texts = begun
    auto = subject.has_auto_captions
    captions = Captions(texts, frozenset(found.missing if auto else ()))
    captions.warnings.extend(_missing_identifier(subject, images, texts, path))
    if subject.add_identifier and added:
        captions.notes.append(
            f"spec.subjects[{index}].addIdentifier: {subject.identifier!r} is added to {added} of"
            f" {len(images)} captions"
        )
    if beside and found.texts:
        captions.notes.append(
            f"{path}: the captions beside {len(found.texts)} of {len(images)} images are used"
        )
        if found.missing and not auto:
            captions.warnings.append(
                f"{path}: no caption is beside {_names(found.missing)}; {subject.prompt!r} is used"
            )
    return captions


def _with_identifier(text: str, subject: Subject) -> str:
    if has_identifier(text, subject.identifier):
        return text
    return f"{subject.identifier} {subject.class_noun}, {text}"


def _list(storage: Storage, uri: str, path: str) -> list[StoredObject]:
    try:
        return list(storage.list_nonempty(uri, field=path))
    except EmptyPrefixError as error:
        raise BadDataError(str(error)) from error


def _missing_identifier(
    subject: Subject, images: Sequence[SourceImage], texts: Sequence[str], path: str
) -> list[str]:
    without = [
        image.name
        for image, text in zip(images, texts, strict=True)
        if not has_identifier(text, subject.identifier)
    ]
    if not without:
        return []
    return [
        f"{path}: the identifier {subject.identifier!r} is missing in the captions of"
        f" {_names(without)}; add it, or the model will not learn it from these images"
    ]


def _names(names: Sequence[str]) -> str:
    return ", ".join(printable(name) for name in names)
