"""Loading a single file: its header for preflight, its weights for training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from safetensors import safe_open
from torch import Tensor

from dreambooth_trainer.models.family import Family
from dreambooth_trainer.models.single_file import shipped
from dreambooth_trainer.models.single_file.architectures import (
    ARCHITECTURES,
    Architecture,
    Shapes,
    find_architecture,
)
from dreambooth_trainer.models.source.model_files import FIELD, ModelFiles
from dreambooth_trainer.models.source.weights import read_header
from dreambooth_trainer.process.errors import BadModelError

SD2_BASE_STEPS = 875_000
"""`global_step` in the .ckpt of Stable Diffusion 2 base, which predicts noise."""


def read_architecture(files: ModelFiles) -> Architecture | None:
    """The architecture of a single file, by its header; None for a .ckpt, which has none.

    Raises:
        BadModelError: See `find_architecture`.
    """
    [name] = files.names
    if not name.endswith(".safetensors"):
        return None
    try:
        _, header = read_header(files, name)
        metadata = header.pop("__metadata__", {})
        shapes = {key: tuple(tensor["shape"]) for key, tensor in header.items()}
        found = find_architecture(shapes, metadata if isinstance(metadata, dict) else {})
        return ARCHITECTURES[found]
    except BadModelError as error:
        raise BadModelError(f"{files.field}: {name} {error}") from error


def load_single_file(path: Path) -> tuple[type[Family], Any]:
    """Family and pipeline, fp32, of a .safetensors or .ckpt file; only tensors are unpickled.

    Raises:
        BadModelError: See `find_architecture`; or weights are missing.
        Exception: Whatever the libraries raise for a damaged file.
    """
    # Published .ckpt files name the callback that wrote them, beside the weights.
    with torch.serialization.safe_globals([ModelCheckpoint]):
        try:
            architecture = ARCHITECTURES[find_architecture(*_describe(path))]
        except BadModelError as error:
            raise BadModelError(f"{FIELD}: {path.name} {error}") from error
        family, others = architecture.family, shipped.load_shipped_parts(architecture)
        try:
            pipeline = family.pipeline_class.from_single_file(
                path,
                config=str(shipped.CONFIGS / architecture.folder),
                dtype=torch.float32,
                local_files_only=True,
                **others,
            )
        except NotImplementedError as error:  # a weight without memory, as the file has none
            raise BadModelError(
                f"{FIELD}: {path.name} has too few weights for a {family.name} model; one with"
                " fewer layers is loaded in the diffusers layout alone"
            ) from error
    parts = {part: getattr(pipeline, part) for part in family.modules}
    return family, family.assemble(parts | others)


def _describe(path: Path) -> tuple[Shapes, Mapping[str, str]]:
    """Shapes of the tensors in a file, and its metadata."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            return shapes, file.metadata() or {}
    content = torch.load(path, map_location="meta", weights_only=True)
    tensors = content.get("state_dict", content)
    metadata = {}
    if content.get("global_step") == SD2_BASE_STEPS:
        metadata["modelspec.prediction_type"] = "epsilon"
    return {
        name: tuple(value.shape) for name, value in tensors.items() if isinstance(value, Tensor)
    }, metadata
