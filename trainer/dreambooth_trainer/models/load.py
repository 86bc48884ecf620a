"""From `spec.model` to a family: fetch once per node, hash, load, move to the device."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import diffusers
import torch
import transformers
from safetensors import SafetensorError
from torch import nn

from dreambooth_api.models.model import Model, Quantization
from dreambooth_api.models.pods.runtime import Offload
from dreambooth_storage import Storage
from dreambooth_trainer.models.adapters.start import merge_adapters
from dreambooth_trainer.models.adapters.trainable import PRECISIONS, weight_dtypes
from dreambooth_trainer.models.family import Family
from dreambooth_trainer.models.finite import check_finite
from dreambooth_trainer.models.offload.apply import offload as offload_denoiser
from dreambooth_trainer.models.quantization.apply import quantize_part
from dreambooth_trainer.models.scheduler import load_scheduler
from dreambooth_trainer.models.sharding import shard
from dreambooth_trainer.models.single_file.load import load_single_file
from dreambooth_trainer.models.source.fetch import fetched, open_files
from dreambooth_trainer.models.source.model_files import FIELD, ModelFiles
from dreambooth_trainer.models.source.selection import (
    Selection,
    find_family,
    pipeline_settings,
    select_files,
)
from dreambooth_trainer.models.source.weights import Weights
from dreambooth_trainer.process import heartbeat
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.errors import BadModelError, TrainerError
from dreambooth_trainer.process.topology import Topology
from dreambooth_trainer.resolved_job import ResolvedTraining


def load_family(
    model: Model,
    storage: Storage,
    ranks: Ranks,
    device: torch.device,
    training: ResolvedTraining | None = None,
    *,
    sharded: bool = False,
    offload: Offload | None = None,
) -> Family:
    """The base model, with `mergedAdapters` merged, frozen, on `device`. Collective.

    Its weights have the precision that `training` keeps them in, see `weight_dtypes`, or the format
    that `model.quantization` names; by default all are fp32. They are converted before they reach
    the device, and one part after the other, so no more than one part is in the host's memory. With
    `sharded`, the ranks divide the denoiser; with `offload`, much of it stays on the host.

    Raises:
        BadModelError: There is none, it is damaged, or of an unknown family.
        StorageError: It cannot be read from storage.
    """
    for library in (diffusers, transformers):  # progress bars are noise in a pod's log
        library.utils.logging.disable_progress_bar()
    with fetched(model, storage, ranks) as path:
        files = open_files(model.model_copy(update={"source": str(path)}), storage)
        files = replace(files, source=model.source)
        selection = select_files(model, files)
        folder = path if model.layout == "diffusers" else path.parent
        # Hashing gigabytes takes seconds, so one rank does it; the files are the same on all nodes.
        digest = ranks.run_on_first(lambda: hash_files(folder, selection.names))
        first = torch.device("cpu") if sharded or offload else device
        kind, pipeline = _open(model, path, files, selection, training, device, first)
    pipeline.set_progress_bar_config(disable=True)
    family = kind(pipeline, digest)
    check_finite(family.parts, FIELD, model.source)
    merge_adapters(family, model.merged_adapters, storage, ranks)
    if model.clip_skip is not None:
        family.clip_skip = model.clip_skip
        # Class images depend on it, and are shared by jobs of one hash.
        text = f"{family.model_hash} clip skip {model.clip_skip}"
        family.model_hash = hashlib.sha256(text.encode()).hexdigest()
    if sharded:
        assert training is not None
        shard(family.denoiser, device, PRECISIONS[training.precision])
    elif offload is not None:
        offload_denoiser(family.denoiser, family.not_adapted, offload, device)
    return family


def reload_denoiser(model: Model, storage: Storage, model_hash: str) -> nn.Module:
    """The denoiser before training, fp32, in host memory: of one rank alone.

    All parts of the model are loaded. Files that were in memory were deleted after they had been
    loaded, and are fetched again.

    Raises:
        BadModelError: The model's files are not those with this hash any more.
        StorageError: It cannot be read from storage.
    """
    family = load_family(model, storage, Ranks(Topology()), torch.device("cpu"))
    if family.model_hash != model_hash:
        raise BadModelError(
            f"{FIELD}: {model.source} has changed since the job loaded it, and the adapters cannot"
            " be merged into it; put its files back and start the job again, which goes on from its"
            " last checkpoint"
        )
    return family.denoiser


def hash_files(path: Path, names: Iterable[str]) -> str:
    """sha256 over names and contents of files below a folder, in hexadecimal digits.

    The caches of class images are keyed by it. It covers only what training loads, so that copies
    of a model share them whatever other files they hold.

    Raises:
        OSError: A file cannot be read.
    """
    total = hashlib.sha256()
    for name in sorted(names):
        heartbeat.send()
        with (path / name).open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{name}:{content}\n".encode())
    return total.hexdigest()


def _open(
    model: Model,
    path: Path,
    files: ModelFiles,
    selection: Selection,
    training: ResolvedTraining | None,
    device: torch.device,
    denoiser_device: torch.device,
) -> tuple[type[Family], Any]:
    """The family of a model, and its pipeline: the denoiser may stay in host memory."""
    quantization = model.quantization if training else None
    try:
        if model.layout == "single-file":
            family, pipeline = load_single_file(path)
            for part, dtype in weight_dtypes(family, training).items():
                # diffusers' own method logs a warning.
                module = nn.Module.to(getattr(pipeline, part), dtype)
                last = denoiser_device if part == family.denoiser_part else device
                _place(model, family, part, module, quantization, device, last)
            return family, pipeline
        family = find_family(model, files)
        dtypes = weight_dtypes(family, training)
        # The parts that training loads, whatever else model_index.json names.
        parts: dict[str, Any] = {}
        for part, kind in family.modules.items():
            weights, dtype = selection.weights[part], dtypes[part]
            parts[part] = _load_part(model, path / part, kind, weights, dtype)
            last = denoiser_device if part == family.denoiser_part else device
            _place(model, family, part, parts[part], quantization, device, last)
        for part, tokenizer in family.tokenizers.items():
            parts[part] = tokenizer.from_pretrained(path / part, local_files_only=True)
        parts["scheduler"] = load_scheduler(files, family.objective_kind)
        return family, family.assemble(parts | pipeline_settings(family, files))
    except TrainerError:
        raise
    except Exception as error:  # damaged files make the libraries raise anything
        raise BadModelError(
            f"{FIELD}: {model.source} cannot be loaded: {_reason(error)}"
        ) from error


def _place(
    model: Model,
    family: type[Family],
    part: str,
    module: nn.Module,
    quantization: Quantization | None,
    device: torch.device,
    last: torch.device,
) -> None:
    """Move a part to its last device, quantized on the device as far as the job says."""
    if quantization is not None:  # codes would hide values that are not finite
        check_finite({part: module}, FIELD, model.source)
    quantize_part(family, part, module, quantization, device, last)


def _load_part(
    model: Model, folder: Path, module: Any, weights: Weights, dtype: torch.dtype
) -> Any:
    """One module with all of its weights, in host memory.

    The libraries initialise weights that are missing at random, and only log it.
    """
    part, info = module.from_pretrained(
        folder,
        variant=weights.variant,
        use_safetensors=weights.use_safetensors,
        dtype=dtype,
        local_files_only=True,
        output_loading_info=True,
    )
    if missing := sorted(info["missing_keys"]):
        raise BadModelError(
            f"{FIELD}: {model.source} cannot be loaded: {len(missing)} weights are missing in"
            f" {folder.name}/, such as {missing[0]}; copy it again"
        )
    return part


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
