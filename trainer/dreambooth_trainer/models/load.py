"""From `spec.model` to a family: fetch once per node, hash, load, move to the device."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from safetensors import SafetensorError

from dreambooth_api.models.model import Model
from dreambooth_storage import Storage
from dreambooth_trainer.models.family import PREDICTION_TYPES, Family
from dreambooth_trainer.models.fetch import FIELD, fetched
from dreambooth_trainer.models.stable_diffusion import StableDiffusion
from dreambooth_trainer.process import heartbeat
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.errors import BadModelError, TrainerError

FAMILIES = {"StableDiffusionPipeline": StableDiffusion}
LIBRARIES = (None, "diffusers", "transformers")
"""Libraries that model_index.json may name for a part; null stands for an omitted part."""
WEIGHTS = (".safetensors", ".bin", ".ckpt")


def load_family(model: Model, storage: Storage, ranks: Ranks, device: torch.device) -> Family:
    """The base model, fp32, frozen, on `device`. Collective.

    Raises:
        BadModelError: There is none, it is damaged, or of an unknown family.
        StorageError: It cannot be read from storage.
    """
    for library in (diffusers, transformers):  # progress bars are noise in a pod's log
        library.utils.logging.disable_progress_bar()
    with fetched(model, storage, ranks) as path:
        # Hashing gigabytes takes seconds, so one rank does it; the files are the same on all nodes.
        digest = ranks.run_on_first(lambda: hash_model(path))
        pipeline = _open(model, path)
    family = FAMILIES.get(type(pipeline).__name__)
    if family is None:
        raise BadModelError(
            f"{FIELD}: {model.source} is a {type(pipeline).__name__};"
            f" only {', '.join(FAMILIES)} can be trained"
        )
    pipeline.set_progress_bar_config(disable=True)
    loaded = family(pipeline.to(device), digest)
    if loaded.prediction_type not in PREDICTION_TYPES:
        raise BadModelError(
            f"{FIELD}: {model.source} predicts {loaded.prediction_type!r}; only"
            f" {' and '.join(PREDICTION_TYPES)} can be trained"
        )
    return loaded


def hash_model(path: Path) -> str:
    """sha256 over the names and contents of the model's files, in hexadecimal digits.

    The caches of class images are keyed by it.

    Raises:
        OSError: A file cannot be read.
    """
    total = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        heartbeat.send()
        # Not the hub client's own files, nor a README: the same model has the same hash everywhere.
        if file.suffix in (*WEIGHTS, ".json", ".txt"):
            with file.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
            name = file.name if file == path else file.relative_to(path)
            total.update(f"{name}:{content}\n".encode())
    return total.hexdigest()


def _open(model: Model, path: Path) -> Any:
    try:
        if model.layout == "single-file":
            return StableDiffusionPipeline.from_single_file(path, dtype=torch.float32)
        _check_index(model, path)
        return DiffusionPipeline.from_pretrained(
            path,
            variant=model.variant,
            dtype=torch.float32,
            use_safetensors=True,  # a pickle can run code when it is loaded
            local_files_only=True,
            # Neither takes part in training, and the checker has more than a gigabyte.
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    except TrainerError:
        raise
    except Exception as error:  # damaged files make the libraries raise anything
        raise BadModelError(
            f"{FIELD}: {model.source} cannot be loaded: {_reason(error)}"
        ) from error


def _reason(error: BaseException) -> str:
    """The underlying reason, as diffusers only reports that a file could not be loaded."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, (SafetensorError, UnpicklingError)):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, SafetensorError):
        return f"it is damaged, or no safetensors file ({_first_line(cause)})"
    if isinstance(cause, UnpicklingError):
        return "it is damaged, or holds more than weights; use a .safetensors file"
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _check_index(model: Model, path: Path) -> None:
    """Check model_index.json first: diffusers' own errors for these cases point to the hub."""
    index = path / "model_index.json"
    if not index.is_file():
        raise BadModelError(
            f"{FIELD}: {model.source} has no model_index.json; name the folder that holds it,"
            " or set spec.model.layout to single-file"
        )
    check_parts(model, json.loads(index.read_text()))


def check_parts(model: Model, index: Mapping[str, Any]) -> None:
    """Check the content of model_index.json.

    Raises:
        BadModelError: The family cannot be trained, or a part would need code of its own.
    """
    name = index.get("_class_name")
    if not isinstance(name, str) or name not in FAMILIES:
        raise BadModelError(
            f"{FIELD}: {model.source} is a {name}; only {', '.join(FAMILIES)} can be trained"
        )
    for part, entry in index.items():  # "unet": ["diffusers", "UNet2DConditionModel"]
        if isinstance(entry, list) and entry and entry[0] not in LIBRARIES:
            raise BadModelError(
                f"{FIELD}: the {part} of {model.source} needs the library {entry[0]!r}; code that"
                f" comes with a model is not run, only {' and '.join(LIBRARIES[1:])}"
            )
