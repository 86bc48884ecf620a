"""`python -m dreambooth_trainer.captioning.command caption|prompts ...`: captions without a job.

`caption CAPTIONING SUBJECT [--write] [--check]` describes the images of a subject that have no
caption, and `prompts CAPTIONING CLASS COUNT` writes prompts. CAPTIONING and SUBJECT are
`spec.captioning` and an entry of `spec.subjects` as JSON. Exit codes are the trainer's.
"""

import argparse
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dreambooth_api.models.captioning import Captioning
from dreambooth_api.models.subject import Subject
from dreambooth_storage import Storage, StorageError, StorageSettings, printable
from dreambooth_trainer.captioning.answers import Caption, PhotoCheck
from dreambooth_trainer.captioning.ask import ask
from dreambooth_trainer.captioning.captions import caption_of, caption_request
from dreambooth_trainer.captioning.models.interface import VisionLanguageModel
from dreambooth_trainer.captioning.models.open import open_model
from dreambooth_trainer.captioning.photos import (
    check_request,
    difference_hash,
    duplicate_warnings,
    photo_warnings,
)
from dreambooth_trainer.captioning.prompts import write_prompts
from dreambooth_trainer.data.captions.files import plain_name, read_caption_files
from dreambooth_trainer.data.decode import decode
from dreambooth_trainer.data.images import ImageSet, SourceImage, load_images
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.errors import TrainerError
from dreambooth_trainer.process.exit_status import describe, exit_code_of
from dreambooth_trainer.process.library_logs import quiet_libraries
from dreambooth_trainer.process.topology import Topology

SMALLEST = 64
"""Pixels of an image's shorter side: a smaller one shows nothing to describe."""
LARGEST = 1536
"""Pixels that an image's longer side is reduced to."""

OPTIONS = {
    "spec.captioning.endpoint.url": "--endpoint",
    "spec.captioning.endpoint.apiKeySecretRef": "$OPENAI_API_KEY",
    "spec.captioning.endpoint": "--endpoint",
    "spec.captioning.model.source": "--model",
    "spec.captioning.temperature": "--temperature",
}
"""The options of fields that messages name; one that begins as another comes first."""


class OptionsFormatter(logging.Formatter):
    """Warnings by the names of options."""

    def format(self, record: logging.LogRecord) -> str:
        """The message alone."""
        return by_options(super().format(record))


def by_options(message: str) -> str:
    """A message that names the options that the user wrote, in place of the fields of a job."""
    for field, option in OPTIONS.items():
        message = message.replace(field, option)
    return message


def caption_images(
    storage: Storage,
    captioning: Captioning,
    subject: Subject,
    loaded: ImageSet,
    model: VisionLanguageModel,
    *,
    write: bool,
    check: bool,
) -> Iterator[str]:
    """Lines for people: captions of a subject's images, new ones written if asked to.

    Raises:
        TrainerError: The model cannot answer.
        StorageError: An image cannot be read.
        OSError: A caption cannot be written.
    """
    yield from map(str, loaded.rejected)
    names = [image.name for image in loaded.images]
    listed = list(storage.list(subject.images, field="the folder"))
    texts = read_caption_files(storage, listed, names, field="the folder").texts
    hashes: dict[str, np.ndarray] = {}
    for number, image in enumerate(loaded.images):
        photo = _read(storage, image)
        if (text := texts.get(image.name)) is not None:
            yield f"{printable(image.name)}: {text} (its own)"
        else:
            request = caption_request(captioning, subject, image.name, photo, number)
            [answer] = ask(model, [request], Caption)
            text = caption_of(answer.caption, subject)
            yield f"{printable(image.name)}: {text}"
            if write:
                _write_new(Path(subject.images.removeprefix("file://")), image.name, text)
        if check:
            hashes[image.name] = difference_hash(photo)
            request = check_request(captioning, subject, image.name, photo, number)
            [found] = ask(model, [request], PhotoCheck)
            yield from photo_warnings(image.name, found, subject.class_noun)
    yield from duplicate_warnings(hashes)


def _read(storage: Storage, image: SourceImage) -> Image.Image:
    photo = decode(storage.read(image.uri, sha256=image.sha256))
    photo.thumbnail((LARGEST, LARGEST))
    return photo


def _write_new(folder: Path, image: str, text: str) -> None:
    """Write a caption beside an image; a file that has appeared meanwhile stays as it is."""
    try:
        with (folder / plain_name(image)).open("x", encoding="utf-8") as file:
            file.write(f"{text}\n")
    except FileExistsError:
        sys.stderr.write(f"{printable(plain_name(image))} exists and is left as it is\n")


def main() -> int:
    """Do what the command line says; return the exit code."""
    arguments = _arguments()
    quiet_libraries()
    handler = logging.StreamHandler()
    handler.setFormatter(OptionsFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    try:
        with Storage(StorageSettings()) as storage:
            for line in _lines(arguments, storage):
                sys.stdout.write(f"{line}\n")
                sys.stdout.flush()
    except (TrainerError, StorageError, OSError) as error:
        sys.stderr.write(f"{by_options(describe(error))}\n")
        return exit_code_of(error)
    return 0


def _lines(arguments: argparse.Namespace, storage: Storage) -> Iterator[str]:
    """What the command answers; raises as `caption_images`, or the folder has no image."""
    captioning = Captioning.model_validate_json(arguments.captioning)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    opened = open_model(captioning, storage, Ranks(Topology()), device)
    if arguments.what == "prompts":
        with opened as model:
            yield from write_prompts(
                model, captioning, arguments.noun, arguments.count, captioning.seed
            )
        return
    subject = Subject.model_validate_json(arguments.subject)
    # Before the model is loaded, which takes minutes.
    images = load_images(storage, subject.images, field="the folder", resolution=2 * SMALLEST)
    with opened as model:
        yield from caption_images(
            storage,
            captioning,
            subject,
            images,
            model,
            write=arguments.write,
            check=arguments.check,
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dreambooth_trainer.captioning.command", description=__doc__
    )
    what = parser.add_subparsers(dest="what", required=True)
    caption = what.add_parser("caption")
    caption.add_argument("captioning", help="spec.captioning, as JSON")
    caption.add_argument("subject", help="an entry of spec.subjects, as JSON")
    caption.add_argument("--write", action="store_true")
    caption.add_argument("--check", action="store_true")
    prompts = what.add_parser("prompts")
    prompts.add_argument("captioning", help="spec.captioning, as JSON")
    prompts.add_argument("noun", help="the class noun")
    prompts.add_argument("count", type=int)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
