"""`dreambooth caption` and `dreambooth prompts`: a vision-language model without a job."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dreambooth_api.contract import environment
from dreambooth_api.models.captioning import Captioning
from dreambooth_api.models.subject import Subject
from dreambooth_api.parsing.messages import messages
from dreambooth_api.parsing.warnings.foreign_prompts import foreign_instructions
from dreambooth_operator.errors import UserError

PROGRAM = "dreambooth_trainer.captioning.command"
CONFIG = "config.json"
"""The file that makes a folder a model of transformers."""

OPTIONS = {
    "classNoun": "--class",
    "identifier": "--identifier",
    "images": "the folder",
    "endpoint.url": "--endpoint",
    "endpoint.model": "--name",
    "model.source": "--model",
    "systemPrompt": "--system-prompt",
    "temperature": "--temperature",
}
"""The option of each field of a subject and of `spec.captioning`."""


@dataclass(frozen=True)
class CaptionModel:
    """Which model is asked, by the options of both commands."""

    model: str | None
    endpoint: str | None
    name: str | None
    seed: int
    state: Path

    def captioning(self, **settings: Any) -> Captioning:
        """The same as `spec.captioning`.

        Raises:
            UserError: An option is not valid, or does not go with another one.
        """
        fields: dict[str, Any] = {"seed": self.seed, **settings}
        if self.endpoint:
            if self.model:
                raise UserError("--model and --endpoint: name one of the two")
            if not self.name:
                raise UserError("--endpoint: name the model there with --name")
            fields["endpoint"] = {"url": self.endpoint, "model": self.name}
        elif self.name:
            raise UserError("--name: is that of a model at --endpoint; use --model")
        elif self.model:
            fields["model"] = {"source": _source(self.model)}
        try:
            return Captioning.model_validate(fields)
        except ValidationError as error:
            raise _refused(error) from error


def caption(
    folder: str,
    noun: str,
    identifier: str,
    model: CaptionModel,
    *,
    system_prompt: str | None,
    write: bool,
    check: bool,
) -> int:
    """Describe a folder's images; returns the exit code: 0, or the trainer's (`ExitCode`).

    Raises:
        UserError: An option is not valid.
    """
    settings = {} if system_prompt is None else {"systemPrompt": system_prompt}
    captioning = model.captioning(**settings)
    if "://" not in folder:
        if not Path(folder).is_dir():
            raise UserError(f"{folder}: no such folder; name the folder of the images")
        if not any(Path(folder).iterdir()):
            raise UserError(f"{folder}: holds no files; put the images there")
        # Not as_uri(): storage takes URIs literally.
        folder = f"file://{Path(folder).absolute()}"
    elif write:
        raise UserError("--write: writes beside images on this machine alone; copy them here first")
    subject = _subject(identifier, noun, folder)
    for warning in foreign_instructions(captioning):
        sys.stderr.write(f"warning: {_by_option(warning)}\n")
    flags = [*(["--write"] if write else []), *(["--check"] if check else [])]
    subject_json = subject.model_dump_json(by_alias=True, exclude_none=True)
    return _run(["caption", _json(captioning), subject_json, *flags], model.state)


def prompts(noun: str, count: int, model: CaptionModel, temperature: float | None) -> int:
    """Write prompts for a class; returns the exit code: 0, or the trainer's (`ExitCode`).

    Raises:
        UserError: An option is not valid.
    """
    captioning = model.captioning(temperature=temperature)
    noun = _subject("sks", noun, "file:///none").class_noun
    return _run(["prompts", _json(captioning), noun, str(count)], model.state)


def _subject(identifier: str, noun: str, folder: str) -> Subject:
    try:
        return Subject.model_validate(
            {"identifier": identifier, "classNoun": noun, "images": folder}
        )
    except ValidationError as error:
        raise _refused(error) from error


def _refused(error: ValidationError) -> UserError:
    """The error for fields that are not valid, by the names of their options."""
    return UserError("\n".join(map(_by_option, messages(error))))


def _by_option(message: str) -> str:
    field, _, rest = message.partition(":")
    return f"{OPTIONS.get(field, field)}:{rest}"


def _json(captioning: Captioning) -> str:
    return captioning.model_dump_json(by_alias=True, exclude_none=True)


def _run(arguments: list[str], state: Path) -> int:
    own = {environment.CACHE_DIR: str((state / "cache").absolute())}
    command = [sys.executable, "-m", PROGRAM, *arguments]
    return subprocess.run(command, env=os.environ | own, check=False).returncode


def _source(text: str) -> str:
    if "://" in text:
        return text
    path = Path(text).expanduser().absolute()
    if not (path / CONFIG).is_file():
        raise UserError(
            f"--model {text}: is no folder of a model of transformers, which holds {CONFIG}; name"
            " one on this machine, hf://owner/name or s3://bucket/folder"
        )
    return str(path)
