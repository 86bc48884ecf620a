"""`dreambooth init`: writes a job file for a folder of photos."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from dreambooth_api.models.model import FILE_ENDINGS
from dreambooth_api.parsing import yamljson
from dreambooth_api.parsing.advice import warnings
from dreambooth_operator.cli.job_file import check_job
from dreambooth_operator.cli.program import command_line
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
        UserError: The folder holds no photos, the file exists already, or a value is not valid.
    """
    count = _count_images(options.photos)
    if options.file.exists() and not options.force:
        raise UserError(f"{options.file} exists already: name another file, or use --force")
    document = _document(options)
    job = check_job(document, "the job")
    options.file.write_text(HEADER + yamljson.dump(document))
    sys.stdout.write(f"wrote {options.file}, with {count} photos\n")
    notes = warnings(job)
    if count < FEW_IMAGES:
        notes.append(f"{options.photos} holds {count} photos; 3 to 5 are usual")
    if not visible_gpus():
        notes.append("this machine has no GPU; a full-size model takes days on a CPU")
    for note in notes:
        sys.stderr.write(f"warning: {note}\n")
    sys.stdout.write(f"check it: {command_line('validate', str(options.file))}\n")
    sys.stdout.write(f"run it:   {command_line('run', str(options.file))}\n")


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
    source = _answer(options.model, "--model", "Base model (hf://, s3:// or path)", DEFAULT_MODEL)
    output = _answer(options.output, "--output", "Where the results go", "results")
    source = source if "://" in source else str(_absolute(source))
    prompt = f"a photo of {identifier} {noun}"
    gpus = min(1, len(visible_gpus()))
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
            "output": output if "://" in output else f"file://{_absolute(output)}",
            "training": {"method": options.method, "precision": "bf16" if gpus else "fp32"},
            "samples": {"prompts": [prompt, f"{prompt} on the beach"]},
            "runtime": {"nodes": 1, "gpusPerNode": gpus},
        },
    }


def _answer(given: str | None, option: str, question: str, default: str | None = None) -> str:
    """The option's value, else the user's answer, else the default.

    Raises:
        UserError: There is neither an option nor a default, and nobody to ask.
    """
    if given is not None:
        return given
    if sys.stdin.isatty():
        answer: str = typer.prompt(question, default=default)
        return answer
    if default is None:
        raise UserError(f"{option} is required when standard input is not a terminal")
    return default


def _absolute(path: str) -> Path:
    return Path(path).expanduser().resolve()


def _job_name(photos: Path) -> str:
    """The folder's name as a job's: lower-case letters, digits and hyphens, at most 40."""
    name = re.sub(r"[^a-z0-9]+", "-", photos.resolve().name.lower()).lstrip("-0123456789")
    return name[:40].rstrip("-") or "my-subject"
