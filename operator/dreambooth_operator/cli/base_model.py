"""The base model that `dreambooth init` is given, as far as it is on this machine."""

import json
from pathlib import Path
from typing import Any

from dreambooth_api.models.model import FILE_ENDINGS
from dreambooth_api.parsing.messages import HUB_NAME
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
            if HUB_NAME.fullmatch(text)
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
