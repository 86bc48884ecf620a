"""Writing safetensors files."""

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from torch import Tensor


def save_weights(weights: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write tensors, from any device and of any memory layout, with their metadata.

    Equal weights and metadata give equal files.

    Raises:
        OSError: The file cannot be written.
    """
    # safetensors refuses tensors that are not contiguous, such as weights in channels-last order.
    contiguous = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    safetensors.torch.save_file(contiguous, path, metadata=dict(metadata))
    _sort_metadata(path)


def _sort_metadata(path: Path) -> None:
    """Sort the metadata in the header of a file: the library writes it in a random order."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        # As the library writes it, so that it has the same length.
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:
            file.seek(8)
            file.write(text.ljust(size))
