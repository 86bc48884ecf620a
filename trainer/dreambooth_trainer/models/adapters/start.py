"""Adapters that training starts with: `spec.model.adapter` and `spec.model.mergedAdapters`.

Files are safetensors, so that nothing is unpickled. Only their layers' matrices are read.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dreambooth_api.models.model import Model, StartAdapter
from dreambooth_storage import Storage
from dreambooth_trainer.models.adapters.change import change_of
from dreambooth_trainer.models.adapters.exported import Adapter, LoadedAdapter, LycorisAdapter
from dreambooth_trainer.models.adapters.file_names import (
    ALPHA,
    CONFIG,
    UnreadableAdapterError,
    find_layers,
)
from dreambooth_trainer.models.family import Family
from dreambooth_trainer.models.source.fetch import fetched, open_files
from dreambooth_trainer.models.source.model_files import WEIGHTS_SUFFIX, ModelFiles
from dreambooth_trainer.models.source.selection import Selection
from dreambooth_trainer.models.source.weights import damaged_file, read_header
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.errors import BadModelError
from dreambooth_trainer.process.topology import Topology

ADAPTER_FIELD = "spec.model.adapter"
MERGED_FIELD = "spec.model.mergedAdapters"
PEFT_FILE = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
"""What peft keeps beside its file: alpha, which the file does not have."""
PREFERRED = ("pytorch_lora_weights.safetensors", PEFT_FILE)
"""Names of a LoRA among other files of a folder: those of diffusers and peft."""
MAX_BYTES = 8 * 2**30
"""Of a file; a LoRA of rank 128 for FLUX.1 has 2.4 GB."""


@dataclass(frozen=True)
class _Source:
    """The file of an adapter, as a model in a single file, and what is said of it elsewhere."""

    model: Model
    metadata: Mapping[str, str]


def merged_field(index: int) -> str:
    """The field that names one of the merged adapters."""
    return f"{MERGED_FIELD}[{index}].source"


def read_adapter(
    given: StartAdapter, storage: Storage, family: Family, field: str
) -> LoadedAdapter:
    """The layers of an adapter on the meta device, by its header alone where that is enough.

    Raises:
        BadModelError: There is none, it is damaged, or of another model.
        StorageError: It cannot be read from storage.
    """
    source = _find_file(given, storage, family, field)
    files = open_files(source.model, storage, field)
    [name] = files.names
    if problem := damaged_file(files, name):
        raise BadModelError(f"{field}: {source.model.source} {problem}")
    _, header = read_header(files, name)
    metadata = header.pop("__metadata__", {})
    try:
        texts = {str(key): str(value) for key, value in metadata.items()}
        # An alpha's value decides nothing that the header is read for.
        tensors = {
            key: torch.ones(each["shape"] if math.prod(each["shape"]) == 1 else (2,))
            if key.endswith(ALPHA)
            else torch.empty(each["shape"], device="meta")
            for key, each in header.items()
        }
    except (AttributeError, KeyError, TypeError, RuntimeError) as error:
        raise BadModelError(f"{field}: {given.source} is damaged; copy it again") from error
    try:
        layers, lycoris = _find_layers(source, tensors, texts, family, field)
    except BadModelError:
        # Layers that are one in the file, and several in the model, are told apart by their values.
        loaded = load_adapter(given, storage, Ranks(Topology()), family, field)
        layers, lycoris = list(loaded.layers), list(loaded.lycoris)
    on_meta = [replace(each, down=each.down.to("meta"), up=each.up.to("meta")) for each in layers]
    return LoadedAdapter("", on_meta, lycoris)


def load_adapter(
    given: StartAdapter, storage: Storage, ranks: Ranks, family: Family, field: str
) -> LoadedAdapter:
    """The layers of an adapter at its scale, fp32, in host memory. Collective.

    Raises:
        BadModelError: There is none, it is damaged, or of another model.
        StorageError: It cannot be read from storage.
    """
    source = ranks.run_on_first(lambda: _find_file(given, storage, family, field))
    with fetched(source.model, storage, ranks, field, _select) as path:
        digest = ranks.run_on_first(lambda: _hash(path))
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise BadModelError(
                f"{field}: {given.source} is damaged, or no safetensors file; copy it again"
            ) from error
    layers, lycoris = _find_layers(source, tensors, metadata, family, field)
    if source.metadata:  # scales that the file does not hold: class images depend on them too
        text = json.dumps([digest, [each.scale for each in layers]])
        digest = hashlib.sha256(text.encode()).hexdigest()
    for name, tensor in tensors.items():
        is_plain = tensor.is_floating_point() and tensor.itemsize > 1
        if not is_plain and not name.endswith(ALPHA):
            raise BadModelError(
                f"{field}: {given.source}: its tensor {name} is of {tensor.dtype}, which is"
                " quantized for inference; name the LoRA with its original weights"
            )
        if not tensor.isfinite().all():
            raise BadModelError(
                f"{field}: {given.source} is damaged: its tensor {name} holds values that are NaN"
                " or infinite"
            )
    layers = [
        replace(each, down=each.down.float(), up=each.up.float() * given.strength)
        for each in layers
    ]
    full = [
        replace(
            each,
            factors={name: tensor.float() for name, tensor in each.factors.items()},
            scale=each.scale * given.strength,
        )
        for each in lycoris
    ]
    return LoadedAdapter(digest, layers, full)


@torch.no_grad()
def merge_into(family: Family, adapter: LoadedAdapter) -> None:
    """Add an adapter to the weights of a model, in fp32."""
    layers: list[Adapter | LycorisAdapter] = [*adapter.layers, *adapter.lycoris]
    for each in layers:
        module: nn.Module = family.parts[each.part].get_submodule(each.module)
        weight = module.get_parameter("weight")
        weight.copy_(weight.float() + change_of(each, weight.device).reshape(weight.shape))


def merge_adapters(
    family: Family, given: Sequence[StartAdapter], storage: Storage, ranks: Ranks
) -> None:
    """Merge adapters into a model, whose hash is then that of both. Collective.

    Raises:
        BadModelError: One is missing, damaged, or of another model.
        StorageError: One cannot be read from storage.
    """
    merged = []
    for index, each in enumerate(given):
        adapter = load_adapter(each, storage, ranks, family, merged_field(index))
        merge_into(family, adapter)
        merged.append((adapter.sha256, each.strength))
    if merged:
        text = json.dumps([family.model_hash, merged])
        family.model_hash = hashlib.sha256(text.encode()).hexdigest()


def _find_file(given: StartAdapter, storage: Storage, family: Family, field: str) -> _Source:
    uri = given.source.rstrip("/")
    if not uri.endswith(WEIGHTS_SUFFIX):
        folder = open_files(Model(source=uri, revision=given.revision), storage, field)
        uri = f"{uri}/{_choose(folder)}"
    model = Model(source=uri, layout="single-file", revision=given.revision)
    [size] = open_files(model, storage, field).sizes.values()
    if size > MAX_BYTES:
        raise BadModelError(
            f"{field}: {uri} has {size} bytes, which is no LoRA: at most {MAX_BYTES} are read; a"
            " whole model belongs into spec.model.source"
        )
    parent, _, name = uri.rpartition("/")
    metadata = {}
    if name == PEFT_FILE:
        folder = open_files(Model(source=parent, revision=given.revision), storage, field)
        config = folder.json(PEFT_CONFIG)
        own = {f"{family.denoiser_part}.{key}": value for key, value in config.items()}
        metadata[CONFIG] = json.dumps(own)
    return _Source(model, metadata)


def _choose(files: ModelFiles) -> str:
    """The adapter's file in a folder; those in folders below it do not count."""
    found = sorted(
        name for name in files.names if name.endswith(WEIGHTS_SUFFIX) and "/" not in name
    )
    for name in PREFERRED:
        if name in found:
            return name
    if len(found) == 1:
        return found[0]
    if found:
        raise BadModelError(
            f"{files.field}: {files.source} holds {len(found)} .safetensors files; name one of"
            f" them, such as {files.source.rstrip('/')}/{found[0]}"
        )
    raise BadModelError(f"{files.field}: {files.source} holds no .safetensors file of a LoRA")


def _select(_model: Model, files: ModelFiles) -> Selection:
    return Selection(files.names, {})


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _find_layers(
    source: _Source,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    family: Family,
    field: str,
) -> tuple[list[Adapter], list[LycorisAdapter]]:
    try:
        return find_layers(tensors, {**metadata, **source.metadata}, family)
    except UnreadableAdapterError as error:
        raise BadModelError(f"{field}: {source.model.source} {error}") from error
