"""Which files hold the weights of a part in the diffusers layout, and whether they are whole."""

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dreambooth_trainer.models.source.model_files import (
    LFS_PROBLEM,
    WEIGHTS_SUFFIX,
    ModelFiles,
    is_lfs_pointer,
)
from dreambooth_trainer.process.errors import BadModelError

FILE_NAMES = {
    "diffusers": ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
    "transformers": ("model.safetensors", "pytorch_model.bin"),
}
"""What each library names the weights of one module, the preferred format first."""
MAX_HEADER = 100_000_000
"""Bytes; the safetensors library refuses longer headers."""
QUANTIZED_TYPE = re.compile(r"F[468](_.*)?|[IU]8")
"""Types in a safetensors header of weights for inference alone. The libraries would load the
rounded values, without the scales that some files keep beside them."""


@dataclass(frozen=True)
class Weights:
    """The files that a part is loaded from."""

    files: tuple[str, ...]
    """Names; the shard index, where there is one, is the first."""
    variant: str | None
    """Variant that these files are of."""
    use_safetensors: bool


def choose_weights(files: ModelFiles, part: str, library: str, variant: str | None) -> Weights:
    """The weights that `library` loads for the folder `part`; "" is the model's own folder.

    As in diffusers, a part without the variant is loaded from its plain weights: `non_ema` exists
    for UNets alone.

    Raises:
        BadModelError: There are none, or a shard is missing.
    """
    folder = f"{part}/" if part else ""
    for suffix in dict.fromkeys((variant, None)):
        for name in FILE_NAMES[library]:
            stem, extension = name.split(".")
            single = f"{folder}{stem}.{suffix}.{extension}" if suffix else f"{folder}{name}"
            index = (
                f"{folder}{name}.index.{suffix}.json" if suffix else f"{folder}{name}.index.json"
            )
            safe = extension == "safetensors"
            if index in files.sizes:
                return Weights((index, *_shards(files, folder, index)), suffix, safe)
            if single in files.sizes:
                return Weights((single,), suffix, safe)
    found = sorted(_variants(files, part, library)) if part else []
    if found and variant is None:
        raise BadModelError(
            f"there are only weights of the variant {' or '.join(found)} in {part}/;"
            f" set spec.model.variant to {found[0]}"
        )
    where, expected = f" in {folder}" if folder else "", f"{folder}{FILE_NAMES[library][0]}"
    if any(name.startswith(f"{expected.removesuffix(WEIGHTS_SUFFIX)}-") for name in files.sizes):
        raise BadModelError(
            f"{expected}.index.json is missing, which tells what each shard holds; copy it too"
        )
    raise BadModelError(f"there are no weights{where}; {expected} is expected")


def unknown_variant(files: ModelFiles, parts: dict[str, str], variant: str | None) -> str | None:
    """Why `variant` cannot be meant: no part has it. `parts`: the library of each."""
    found = {name for part, library in parts.items() for name in _variants(files, part, library)}
    if variant is None or variant in found:
        return None
    return f"there are no weights of the variant {variant!r}; " + (
        f"set spec.model.variant to {' or '.join(sorted(found))}, or remove it"
        if found
        else "remove spec.model.variant"
    )


def damaged_weights(files: ModelFiles, weights: Weights) -> Iterator[str]:
    """What is wrong with weights, as far as their first bytes and their sizes show it."""
    for name in weights.files:
        if not name.endswith(".json") and (problem := damaged_file(files, name)):
            yield f"{name} {problem}"


def damaged_file(files: ModelFiles, name: str) -> str | None:
    """What is wrong with one file of weights: a git-lfs pointer, too few bytes, or quantized."""
    start = files.read_start(name, 128)
    if is_lfs_pointer(start):
        return LFS_PROBLEM
    if not name.endswith(".safetensors"):
        # What torch.save writes: a ZIP archive, or a pickle in versions before 1.6.
        return None if start.startswith((b"PK", b"\x80")) else "holds no weights; copy it again"
    try:
        length, header = read_header(files, name)
        expected = _expected_size((length, header))
    except BadModelError as error:
        return str(error)
    tensors = (tensor for key, tensor in header.items() if key != "__metadata__")
    types = {str(tensor.get("dtype")) for tensor in tensors}
    if quantized := sorted(filter(QUANTIZED_TYPE.fullmatch, types)):
        return (
            f"holds weights of the type {', '.join(quantized)}, which are quantized for inference"
            " and cannot be trained; name the model with its original weights"
        )
    if files.sizes[name] == expected[0] + expected[1]:
        return None
    return (
        f"is damaged: it has {files.sizes[name]} bytes, and its header describes"
        f" {sum(expected)}; copy it again"
    )


def read_header(files: ModelFiles, name: str) -> tuple[int, dict[str, Any]]:
    """Length of a safetensors file's header in bytes, its own length included; and the header.

    Raises:
        BadModelError: It is no safetensors file.
    """
    start = files.read_start(name, 8)
    length = 8 + struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 8 < length <= min(MAX_HEADER, files.sizes[name]):
        raise BadModelError("is damaged, or no safetensors file; copy it again")
    try:
        header = json.loads(files.read_start(name, length)[8:])
    except (ValueError, RecursionError) as error:
        raise BadModelError("is damaged, or no safetensors file; copy it again") from error
    if not isinstance(header, dict):
        raise BadModelError("is damaged, or no safetensors file; copy it again")
    return length, header


def _expected_size(header: tuple[int, dict[str, Any]]) -> tuple[int, int]:
    """Bytes of the header and of the tensors that it describes."""
    length, tensors = header
    try:
        ends = [
            int(tensor["data_offsets"][1])
            for name, tensor in tensors.items()
            if name != "__metadata__"
        ]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise BadModelError("is damaged, or no safetensors file; copy it again") from error
    return length, max(ends, default=0)


def _shards(files: ModelFiles, folder: str, index: str) -> list[str]:
    """The shards that an index names."""
    shards = files.json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(each, str) for each in shards.values()):
        raise BadModelError(f"{index} names no shards; copy it again")
    names = [f"{folder}{each}" for each in sorted(set(shards.values()))]
    missing = [name for name in names if name not in files.sizes]
    if missing:
        raise BadModelError(f"{', '.join(missing)} is missing, which {index} names; copy it too")
    return names


def _variants(files: ModelFiles, part: str, library: str) -> set[str]:
    """The variants that there are weights of in `part`."""
    found = set()
    for name in FILE_NAMES[library]:
        stem, extension = name.split(".")
        single = rf"{part}/{stem}\.([a-z0-9_]+)\.{extension}"
        index = rf"{part}/{stem}\.{extension}\.index\.([a-z0-9_]+)\.json"
        for file in files.sizes:
            if match := re.fullmatch(single, file) or re.fullmatch(index, file):
                found.add(match[1])
    return found
