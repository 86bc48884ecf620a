"""`dreambooth init`: writes a job file for a folder of photos."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from dreambooth_api.models.model import FILE_ENDINGS
from dreambooth_api.parsing import yamljson
from dreambooth_api.parsing.warnings.advice import cluster_warnings, warnings
from dreambooth_api.parsing.warnings.unusual_rates import LARGE_RESOLUTION
from dreambooth_operator.cli.base_model import model_source, native_resolution
from dreambooth_operator.cli.job_file import check_job
from dreambooth_operator.cli.terminal.program import command_line
from dreambooth_operator.errors import UserError
from dreambooth_operator.local.host import visible_gpus

IMAGES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".heic", ".heif"),
    *(".avif", ".bmp", ".tif", ".tiff", ".gif"),
)
FEW_IMAGES = 3
DEFAULT_MODEL = "hf://stable-diffusion-v1-5/stable-diffusion-v1-5"
HEADER = "# Every field that is not here has a default: see docs/reference.md.\n"


@dataclass(frozen=True)
class InitOptions:
    """The options of `dreambooth init`; None: ask for it, or take the default."""

    photos: Path
    file: Path
    name: str | None
    class_noun: str | None
    identifier: str | None
    model: str | None
    output: str | None
    method: str
    force: bool


def init(options: InitOptions) -> None:
    """Write the job file; what no option gives is asked for on a terminal.

    Raises:
        UserError: The folder holds no photos, the file exists already or cannot be written, or a
            value is not valid.
    """
    count = _count_images(options.photos)
    # Before anything is asked: the answers would be lost.
    _check_file(options.file, options.force)
    document = _document(options)
    job = check_job(document, "the job")
    options.file.write_text(HEADER + yamljson.dump(document))
    photos = "1 photo" if count == 1 else f"{count} photos"
    sys.stdout.write(f"wrote {options.file}, with {photos}\n")
    notes = warnings(job)
    if count < FEW_IMAGES:
        notes.append(f"{options.photos} holds {photos}; 3 to 5 are usual")
    resolution = native_resolution(job.spec.model.source) or LARGE_RESOLUTION
    if not visible_gpus() and resolution >= LARGE_RESOLUTION:
        notes.append("this machine has no GPU; a full-size model takes days on a CPU")
    for note in notes:
        sys.stderr.write(f"warning: {note}\n")
    for note in cluster_warnings(job):
        sys.stderr.write(f"note: {note}\n")
    sys.stdout.write(f"check it: {command_line('validate', str(options.file))}\n")
    sys.stdout.write(f"run it:   {command_line('run', str(options.file))}\n")


def _check_file(file: Path, force: bool) -> None:
    if file.is_dir():
        raise UserError(f"--file {file}: is a folder; name a file in it")
    if file.exists() and not force:
        raise UserError(f"{file} exists already: name another file, or use --force")
    if not file.parent.is_dir():
        raise UserError(f"--file {file}: there is no folder {file.parent}; create it first")


def _count_images(folder: Path) -> int:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name the folder that holds the photos")
    count = sum(path.suffix.lower() in IMAGES for path in folder.iterdir())
    if not count:
        raise UserError(f"{folder}: holds no photos ({', '.join(IMAGES)}); put 3 to 5 there")
    return count


def _document(options: InitOptions) -> dict[str, Any]:
    noun = _answer(options.class_noun, "--class", "What do the photos show (mug, dog, person)")
    identifier = _answer(options.identifier, "--identifier", "Rare word for the subject", "sks")
    question = "Base model (hf://, s3:// or path)"
    source = _answer(options.model, "--model", question, DEFAULT_MODEL, model_source)
    output = _answer(options.output, "--output", "Where the results go", "results")
    gpus = min(1, len(visible_gpus()))
    prompt = f"a photo of {identifier} {noun}"
    return {
        "apiVersion": "dreambooth.dev/v1alpha1",
        "kind": "DreamBoothJob",
        "metadata": {"name": options.name or _job_name(options.photos)},
        "spec": {
            "model": {
                "source": source,
                "layout": "single-file" if source.endswith(FILE_ENDINGS) else "diffusers",
            },
            "subjects": [
                {
                    "identifier": identifier,
                    "classNoun": noun,
                    "images": f"file://{options.photos.resolve()}",
                }
            ],
            "output": output
            if "://" in output
            else f"file://{Path(output).expanduser().resolve()}",
            "training": {"method": options.method, "precision": "bf16" if gpus else "fp32"},
            "samples": {"prompts": [prompt, f"{prompt} on the beach"]},
            "runtime": {"nodes": 1, "gpusPerNode": gpus},
        },
    }


def _answer(
    given: str | None,
    option: str,
    question: str,
    default: str | None = None,
    check: Callable[[str], str] = str,
) -> str:
    """The option's value, else the user's answer, else the default, as `check` returns it.

    Raises:
        UserError: There is neither an option nor a default, and nobody to ask; or `check` refuses
            the value. An answer that it refuses is asked for again.
    """
    if given is not None:
        return check(given)
    while sys.stdin.isatty():
        try:
            return check(typer.prompt(question, default=default))
        except UserError as error:
            sys.stderr.write(f"{error}\n")
    if default is None:
        raise UserError(f"{option} is required when standard input is not a terminal")
    return check(default)


def _job_name(photos: Path) -> str:
    """The folder's name as a job's: lower-case letters, digits and hyphens, at most 40."""
    name = re.sub(r"[^a-z0-9]+", "-", photos.resolve().name.lower()).lstrip("-0123456789")
    return name[:40].rstrip("-") or "my-subject"
