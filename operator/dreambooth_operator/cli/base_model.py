"""Base models that commands are given (`--model`, `--base`), as far as they are on this machine."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dreambooth_api.models.model import FILE_ENDINGS, Model
from dreambooth_api.parsing.messages import messages
from dreambooth_api.parsing.suggestions.texts import is_hub_name
from dreambooth_operator.errors import UserError

INDEX = "model_index.json"
"""The file that makes a folder a diffusers pipeline."""


def model_source(text: str, option: str = "--model") -> str:
    """The source of a model (spec.model.source): a URI as it is, a path made absolute.

    Args:
        text: As it was given.
        option: The option that it was given with, for messages.

    Raises:
        UserError: There is no model at the path.
    """
    if "://" in text and not text.startswith("file://"):
        return text
    # Not resolved: in the hub's cache, a .safetensors file is a link to one without an ending.
    path = Path(text.removeprefix("file://")).expanduser().absolute()
    if not path.exists():
        remedy = (
            f"for a model of the Hugging Face hub write hf://{text}"
            if is_hub_name(text)
            else "name a model on this machine, hf://owner/name or s3://bucket/folder"
        )
        raise UserError(f"{option} {text}: no such file or folder; {remedy}")
    is_model = (path / INDEX).is_file() if path.is_dir() else path.name.endswith(FILE_ENDINGS)
    if not is_model:
        raise UserError(
            f"{option} {text}: not a model; name a folder with {INDEX}, or a"
            f" {' or '.join(FILE_ENDINGS)} file"
        )
    return str(path)


def with_base(model: Mapping[str, Any], base: str) -> dict[str, Any]:
    """`spec.model` of a result's job, with the base model that `--base` names.

    Raises:
        UserError: There is no model at the path, or it is none that can be loaded.
    """
    source = model_source(base, "--base")
    layout = "single-file" if source.endswith(FILE_ENDINGS) else "diffusers"
    given = {"source": source, "layout": layout}
    try:
        Model.model_validate(given)
    except ValidationError as error:
        problems = (message.partition(": ")[2] for message in messages(error))
        raise UserError(f"--base {base}: {'; '.join(problems)}") from error
    # What was merged into the base model, and how it reads prompts, stays.
    kept = {name: value for name, value in model.items() if name not in ("revision", "variant")}
    return kept | given


def native_resolution(source: str) -> int | None:
    """Pixels along one side of the images that a model was trained on.

    From the configuration of a diffusers pipeline; None where that is not known, such as for a
    model that is not on this machine.
    """
    folder = Path(source)
    denoiser = "unet" if (folder / "unet").is_dir() else "transformer"
    try:
        sample_size = _config(folder / denoiser)["sample_size"]
        # Each block of the VAE but the last halves the image.
        factor = 2 ** (len(_config(folder / "vae")["block_out_channels"]) - 1)
        return int(sample_size * factor)
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _config(part: Path) -> Any:
    return json.loads((part / "config.json").read_bytes())
