"""Captions of the subject's images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from dreambooth_api.models.subject import Subject
from dreambooth_storage import EmptyPrefixError, Storage, StoredObject, printable
from dreambooth_trainer.data.images import SourceImage
from dreambooth_trainer.process.errors import BadDataError

MAX_CHARACTERS = 1000
"""Of one caption. Stable Diffusion's text encoder reads 77 tokens, about 300 characters."""
TOO_LONG = f"is over {MAX_CHARACTERS} characters: shorten it to what the image shows"


@dataclass(frozen=True)
class Captions:
    """One caption per image, in the images' order, and warnings about them."""

    texts: list[str]
    warnings: list[str]


def load_captions(
    storage: Storage, subject: Subject, images: Sequence[SourceImage], index: int
) -> Captions:
    """Captions of the images of `spec.subjects[index]`.

    Without a `captions` folder, every image has the instance prompt. With it, its caption is the
    text of `dog.jpg.txt` or `dog.txt` for `dog.jpg`.

    Raises:
        BadDataError: Captions are missing, empty, not UTF-8 or too long; all of them are listed.
        StorageError: The folder cannot be read.
    """
    if subject.captions is None:
        return Captions([subject.prompt] * len(images), [])
    field = f"spec.subjects[{index}].captions"
    files = _files(storage, subject.captions, field)
    texts, problems = _read_all(storage, files, images, field)
    if problems:
        head = f"{field}: {len(problems)} caption(s) in {subject.captions} must be corrected:"
        raise BadDataError("\n  ".join([head, *problems]))
    return Captions(texts, _missing_identifier(subject, images, texts, field))


def has_identifier(text: str, identifier: str) -> bool:
    """Whether the identifier occurs in the text as a separate word."""
    # With and without punctuation, as an identifier may contain some itself.
    words = (word.strip(".,;:!?\"'()") for word in text.lower().split())
    return identifier.lower() in words or identifier.lower() in text.lower().split()


def _files(storage: Storage, uri: str, field: str) -> dict[str, StoredObject]:
    try:
        listed = storage.list_nonempty(uri, field=field)
    except EmptyPrefixError as error:
        raise BadDataError(str(error)) from error
    return {item.relative: item for item in listed}


def _read_all(
    storage: Storage, files: dict[str, StoredObject], images: Sequence[SourceImage], field: str
) -> tuple[list[str], list[str]]:
    """The captions, and the reason for each that cannot be used."""
    matches = [files.get(f"{image.name}.txt") or files.get(_plain_name(image)) for image in images]
    problems = [
        f"{printable(image.name)} has none: add {printable(_plain_name(image))}"
        for image, file in zip(images, matches, strict=True)
        if file is None
    ]
    wanted = {file.uri: file for file in matches if file is not None}
    # A character takes at most 4 bytes in UTF-8, a byte order mark 3: larger files are not read.
    long = {uri for uri, file in wanted.items() if file.size > 4 * MAX_CHARACTERS + 3}
    problems += [f"{wanted[uri].relative} {TOO_LONG}" for uri in sorted(long)]
    readable = [uri for uri in wanted if uri not in long]
    texts = {uri: _text(data) for uri, data in storage.read_many(readable, field=field)}
    for uri, text in texts.items():
        if problem := _problem(text):
            problems.append(f"{wanted[uri].relative} {problem}")
    return [texts.get(file.uri) or "" for file in matches if file is not None], problems


def _plain_name(image: SourceImage) -> str:
    return PurePosixPath(image.name).stem + ".txt"


def _text(data: bytes) -> str | None:
    """The caption on one line, or None when it is not UTF-8."""
    try:
        return " ".join(data.decode("utf-8-sig").split())
    except UnicodeDecodeError:
        return None


def _problem(text: str | None) -> str | None:
    if text is None or "\0" in text:
        return "is not UTF-8 text: save it as UTF-8"
    if not text:
        return "is empty: describe the image, with the identifier"
    return TOO_LONG if len(text) > MAX_CHARACTERS else None


def _missing_identifier(
    subject: Subject, images: Sequence[SourceImage], texts: Sequence[str], field: str
) -> list[str]:
    without = [
        image.name
        for image, text in zip(images, texts, strict=True)
        if not has_identifier(text, subject.identifier)
    ]
    if not without:
        return []
    return [
        f"{field}: the identifier {subject.identifier!r} is missing in the captions of"
        f" {', '.join(without)}; add it, or the model will not learn it from these images"
    ]
