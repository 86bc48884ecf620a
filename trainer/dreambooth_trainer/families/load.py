"""From `spec.model` to a family: fetch once per node, hash, load, place on the device."""

import hashlib
import json
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline, StableDiffusionPipeline

from dreambooth_api.model import Model
from dreambooth_trainer import heartbeat
from dreambooth_trainer.distributed import Ranks
from dreambooth_trainer.errors import BadModel
from dreambooth_trainer.families.base import Family
from dreambooth_trainer.families.fetch import FIELD, fetch
from dreambooth_trainer.families.stable_diffusion import StableDiffusion
from dreambooth_trainer.storage import Storage

FAMILIES = {"StableDiffusionPipeline": StableDiffusion}
WEIGHTS = (".safetensors", ".bin", ".ckpt")


def load_family(model: Model, storage: Storage, ranks: Ranks, device: torch.device) -> Family:
    """The base model, fp32, frozen, on `device`.

    Raises `BadModel` when there is none, it is damaged, or of a family that is not known.
    """
    for library in (diffusers, transformers):  # their bars make a mess of a log
        library.utils.logging.disable_progress_bar()
    path = fetch(model, storage, ranks)
    digest = ranks.from_first(hash_model(path) if ranks.topology.rank == 0 else None)
    pipeline = _open(model, path)
    family = FAMILIES.get(type(pipeline).__name__)
    if family is None:
        raise BadModel(
            f"{FIELD}: {model.source} is a {type(pipeline).__name__};"
            f" only {', '.join(FAMILIES)} can be trained"
        )
    pipeline.set_progress_bar_config(disable=True)
    return family(pipeline.to(device), digest)


def hash_model(path: Path) -> str:
    """sha256 over the names and contents of the model's files; what prior caches are keyed by."""
    total = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        heartbeat.beat()
        if file.suffix in (*WEIGHTS, ".json", ".txt"):
            with file.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
            total.update(
                f"{file.relative_to(path) if file != path else file.name}:{content}\n".encode()
            )
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
            use_safetensors=True,
            local_files_only=True,
            # Neither is part of training, and both are large.
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise BadModel(f"{FIELD}: {model.source} cannot be loaded: {reason[0]}") from error


def _check_index(model: Model, path: Path) -> None:
    """Read model_index.json first: diffusers' own errors for these cases send people to the hub."""
    index = path / "model_index.json"
    if not index.is_file():
        raise BadModel(
            f"{FIELD}: {model.source} has no model_index.json; name the folder that holds it,"
            " or set spec.model.layout to single-file"
        )
    name = json.loads(index.read_text()).get("_class_name")
    if name not in FAMILIES:
        raise BadModel(
            f"{FIELD}: {model.source} is a {name}; only {', '.join(FAMILIES)} can be trained"
        )
